//! Commands as the go command sees them: `os/exec.(*Cmd).Run`, which is what Go's own clocks measure. Its wait for the lock
//! that keeps forks apart (syscall.ForkLock) comes before `clone`, and its wait for a processor after the child's end.

use std::collections::HashMap;

use super::tools::Child;
use crate::ring::event::Task;

/// Commands under way.
#[derive(Debug, Default)]
pub struct Commands {
    /// (process, goroutine) → begin, and the child once there is one.
    open: HashMap<(u32, u64), (u64, Option<usize>)>,
}

impl Commands {
    /// A goroutine forked. Gives the begin of the command that it runs.
    pub fn forked(&mut self, parent: Task, child: usize) -> Option<u64> {
        let (begin_ns, of) = self.open.get_mut(&(parent.pid, parent.goroutine))?;
        // The first fork of a process only tries what the kernel can do (os.checkPidfd).
        *of = Some(child);
        Some(*begin_ns)
    }

    /// A goroutine is about to run a command.
    pub fn begins(&mut self, at_ns: u64, task: Task) {
        self.open.insert((task.pid, task.goroutine), (at_ns, None));
    }

    /// It has its result.
    pub fn ends(&mut self, at_ns: u64, task: Task, children: &mut [Child]) {
        let child = self.open.remove(&(task.pid, task.goroutine)).and_then(|(_, child)| children.get_mut(child?));
        // One that is still there was left alone: Run gave up (WaitDelay).
        if let Some(child) = child.filter(|child| child.end_ns.is_some()) {
            child.end_ns = Some(at_ns);
        }
    }

    /// Another image runs in a process.
    pub fn replaced(&mut self, pid: u32) {
        self.open.retain(|goroutine, _| goroutine.0 != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lasts_from_its_call_to_the_return() {
        let task = Task { pid: 1, goroutine: 7, ..Task::default() };
        let mut commands = Commands::default();
        let mut children = Vec::new();
        commands.begins(10, task);
        assert_eq!(commands.forked(Task { goroutine: 8, ..task }, 0), None);
        for child in 0..2 {
            assert_eq!(commands.forked(task, child), Some(10));
            children.push(Child::new(100, task, 10));
            children[child].end_ns = Some(20);
        }
        commands.ends(30, task, &mut children);
        assert_eq!((children[0].end_ns, children[1].end_ns), (Some(20), Some(30)));
        assert_eq!(commands.forked(task, 2), None);
    }
}
