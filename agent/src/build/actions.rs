//! The go command's actions, by its own trace spans: when each began and was done, and how long it waited for its turn.
//!
//! `(*Builder).Do` and its workers name their spans after the action (cmd/go/internal/work/exec.go). An action is ready when
//! those that it depends on are done.

use std::collections::HashMap;

use super::tools::Child;
use crate::ring::event::Task;

/// Actions of a build.
#[derive(Debug, Default)]
pub struct Actions {
    /// Spans that are open, by process and goroutine, innermost last.
    open: HashMap<(u32, u64), Vec<Open>>,
    done: HashMap<Named, Action>,
    /// Begins of the executions of an action graph.
    graphs_ns: Vec<u64>,
}

/// What an action is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Named {
    /// Compiles a package: its name as the go command prints it, a test variant's with its brackets.
    Build(String),
    /// Looks a package up in the cache before that (Go 1.26 and later).
    CheckCache(String),
    /// Links a program.
    Link(String),
    /// The whole graph.
    Graph,
}

/// A span that has not ended.
#[derive(Debug)]
struct Open {
    /// The action that it is, if it is one.
    named: Option<Named>,
    start_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Action {
    start_ns: u64,
    end_ns: u64,
}

impl Named {
    /// Reads the name of a span. One that was cut has no end.
    fn parse(span: &str) -> Option<Self> {
        if span.starts_with("exec.Builder.Do (") {
            return Some(Self::Graph);
        }
        let action = span.strip_prefix("Executing action (")?.strip_suffix(')')?;
        if let Some(package) = action.strip_prefix("build check cache ") {
            return Some(Self::CheckCache(package.to_owned()));
        }
        if let Some(package) = action.strip_prefix("build ") {
            return Some(Self::Build(package.to_owned()));
        }
        action.strip_prefix("link ").map(|package| Self::Link(package.to_owned()))
    }
}

impl Actions {
    /// The go command opened a span.
    pub fn span_begins(&mut self, at_ns: u64, task: Task, name: &str) {
        let named = Named::parse(name);
        if named == Some(Named::Graph) {
            self.graphs_ns.push(at_ns);
        }
        self.open.entry((task.pid, task.goroutine)).or_default().push(Open { named, start_ns: at_ns });
    }

    /// It closed the one that it opened last.
    pub fn span_ends(&mut self, at_ns: u64, task: Task) {
        let spans = (task.pid, task.goroutine);
        let Some(stack) = self.open.get_mut(&spans) else { return };
        if let Some(Open { named: Some(named), start_ns }) = stack.pop() {
            self.done.insert(named, Action { start_ns, end_ns: at_ns });
        }
        if stack.is_empty() {
            self.open.remove(&spans);
        }
    }

    /// Another image runs in a process.
    pub fn replaced(&mut self, pid: u32) {
        self.open.retain(|spans, _| spans.0 != pid);
    }

    /// How long the action of a child waited from when it was ready; absent where that cannot be known.
    pub fn queue_ns(&self, child: &Child) -> Option<u64> {
        let package = child.import_path.as_deref()?;
        let start_ns = if child.links() {
            self.done.get(&Named::Link(package.to_owned()))?.start_ns
        } else {
            let builds = self.done.get(&Named::Build(package.to_owned()))?;
            self.done.get(&Named::CheckCache(package.to_owned())).unwrap_or(builds).start_ns
        };
        let graph_ns = self.graphs_ns.iter().copied().filter(|graph_ns| *graph_ns <= start_ns).max()?;
        let mut ready_ns = graph_ns;
        for import in child.imports.as_ref()? {
            // A package and its test variant have one name in an importcfg.
            if self.has_variant(import) {
                return None;
            }
            // What `go list` finds in the cache by itself has no action.
            ready_ns = ready_ns.max(self.done.get(&Named::Build(import.clone()))?.end_ns);
        }
        (ready_ns <= start_ns).then(|| start_ns - ready_ns)
    }

    fn has_variant(&self, package: &str) -> bool {
        let variant = |named: &Named| match named {
            Named::Build(name) => name.strip_prefix(package).is_some_and(|rest| rest.starts_with(" [")),
            Named::CheckCache(_) | Named::Link(_) | Named::Graph => false,
        };
        self.done.keys().any(variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tools::fixtures;

    fn span(actions: &mut Actions, goroutine: u64, name: &str, (start_ns, end_ns): (u64, u64)) {
        let task = Task { pid: 1, goroutine, ..Task::default() };
        actions.span_begins(start_ns, task, name);
        actions.span_ends(end_ns, task);
    }

    fn compile(import_path: &str, imports: &[&str]) -> Child {
        let mut child = fixtures::tool("compile", import_path, "_pkg_.a", 0);
        child.imports = Some(imports.iter().map(|&import| import.to_owned()).collect());
        child
    }

    #[test]
    fn an_action_waits_from_the_end_of_the_last_one_that_it_needs() {
        let mut actions = Actions::default();
        let builder = Task { pid: 1, goroutine: 1, ..Task::default() };
        actions.span_begins(10, builder, "exec.Builder.Do (link a.out)");
        span(&mut actions, 2, "Executing action (build a)", (12, 20));
        span(&mut actions, 2, "Executing action (build b)", (20, 30));
        span(&mut actions, 3, "Executing action (build check cache c)", (33, 34));
        span(&mut actions, 3, "Executing action (build c)", (40, 50));
        assert_eq!(actions.queue_ns(&compile("a", &[])), Some(2));
        assert_eq!(actions.queue_ns(&compile("c", &["a", "b"])), Some(3));
        assert_eq!(actions.queue_ns(&compile("c", &["unknown"])), None);
        span(&mut actions, 3, "Executing action (build a [a.test])", (40, 50));
        assert_eq!(actions.queue_ns(&compile("c", &["a", "b"])), None);
    }
}
