//! Counting what `cargo test` said.

use std::ops::AddAssign;

/// Tests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and held.
    pub passed: u64,
    /// Did not hold, or could not be run to its end.
    pub failed: u64,
    /// Did not run, for a reason that was printed.
    pub skipped: u64,
}

impl Counts {
    /// Adds up the result lines of a log. A test that printed `skipped: REASON` returned early and counts as skipped,
    /// though the test harness, which knows no skip, counts it as passed.
    pub fn of_log(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            let Some(result) = line.split_once("test result: ").map(|(_, result)| result) else { continue };
            for part in result.split([';', '.']) {
                match part.trim().split_once(' ') {
                    Some((number, "passed")) => counts.passed += number.parse().unwrap_or(0),
                    Some((number, "failed")) => counts.failed += number.parse().unwrap_or(0),
                    Some((number, "ignored")) => counts.skipped += number.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        let returned_early = (skip_reasons(text).count() as u64).min(counts.passed);
        counts.passed -= returned_early;
        counts.skipped += returned_early;
        counts
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

/// Reasons of the tests that returned early. With `--nocapture` the line may begin with `test NAME ... `.
pub fn skip_reasons(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... skipped: ").map(|(_, reason)| reason),
        None => line.strip_prefix("skipped: "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_binaries_are_added() {
        let log = "test a ... ok\n\
                   test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s\n\
                   test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(Counts::of_log(log), Counts { passed: 16, failed: 2, skipped: 1 });
    }

    #[test]
    fn early_return_is_a_skip_with_its_reason() {
        let log = "skipped: no BTF\ntest a ... skipped: no root\nok\nhow it skipped: not a reason\n\
                   test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(Counts::of_log(log), Counts { passed: 3, failed: 0, skipped: 2 });
        assert_eq!(skip_reasons(log).collect::<Vec<_>>(), ["no BTF", "no root"]);
    }

    #[test]
    fn foreign_text_is_nothing() {
        assert_eq!(Counts::of_log("test result: what. many passed; -1 failed\n"), Counts::default());
    }
}
