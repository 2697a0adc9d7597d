//! Real servers with injected faults, for tests, benchmarks and the demo.
