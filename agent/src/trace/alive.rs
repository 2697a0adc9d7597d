//! Go commands that ended without our hearing of it: their exit did not fit into the ring.

use std::collections::HashMap;

use crate::{
    host::{Fact, process::Process},
    ring::{
        Event,
        event::{Body, Program, Task},
    },
};

/// An exit that is still on its way arrives well before this.
const PATIENCE_NS: u64 = 3_000_000_000;

/// The go commands whose exit did not arrive.
#[derive(Debug, Default)]
pub struct Alive {
    go_commands: HashMap<u32, GoCommand>,
}

#[derive(Debug)]
struct GoCommand {
    /// Its `/proc` directory, which no later process of its number has; absent when it was gone already.
    process: Option<Process>,
    /// When it was not there for the first time.
    gone_ns: Option<u64>,
}

impl Alive {
    /// An exit, or what was found out about an exec.
    pub fn follow(&mut self, event: &Event) {
        match &event.body {
            Body::Facts(facts) if facts.program == Program::Go => {
                let process = Process::open(event.task.pid).known();
                self.go_commands.insert(event.task.pid, GoCommand { process, gone_ns: None });
            }
            Body::Exit(_) => {
                self.go_commands.remove(&event.task.pid);
            }
            _ => {}
        }
    }

    /// Those that have been gone for so long that no exit will come, each once.
    pub fn gone(&mut self, now_ns: u64) -> Vec<Event> {
        let mut gone = Vec::new();
        self.go_commands.retain(|&pid, command| {
            // A process that has ended and was not waited for has no executable.
            let ended = command.process.as_ref().is_none_or(|process| process.executable_path() == Fact::TooLate);
            if !ended {
                return true;
            }
            let at_ns = *command.gone_ns.get_or_insert(now_ns);
            let given_up = now_ns.saturating_sub(at_ns) >= PATIENCE_NS;
            if given_up {
                gone.push(Event { at_ns, task: Task { pid, ..Task::default() }, body: Body::Gone });
            }
            !given_up
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::ring::event::{Exit, ProcessFacts, Status, ThreadTimes};

    fn follow(alive: &mut Alive, pid: u32, body: Body) {
        alive.follow(&Event { at_ns: 1, task: Task { pid, ..Task::default() }, body });
    }

    /// Ends when its standard input does.
    fn start() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn what_is_gone_is_told_once_and_only_where_no_exit_came() {
        let mut alive = Alive::default();
        let mut children = [start(), start(), start()];
        let [lost, told, runs] = children.each_ref().map(Child::id);
        let go = || Body::Facts(Box::new(ProcessFacts { program: Program::Go, ..ProcessFacts::unknown() }));
        for pid in [lost, told, runs] {
            follow(&mut alive, pid, go());
        }
        assert_eq!(alive.gone(10), []);
        for child in &mut children[..2] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        let threads = ThreadTimes::default();
        let status = Status::Code(0);
        let exit = Exit { status, user_ns: 0, system_ns: 0, max_rss_bytes: 0, io_wait_ns: 0, threads };
        follow(&mut alive, told, Body::Exit(exit));
        assert_eq!(alive.gone(20), []);
        assert_eq!(alive.gone(19 + PATIENCE_NS), []);
        let gone: Vec<_> = alive.gone(20 + PATIENCE_NS).iter().map(|event| (event.at_ns, event.task.pid)).collect();
        assert_eq!(gone, [(20, lost)]);
        assert_eq!(alive.gone(30 + PATIENCE_NS), []);
        drop(children[2].stdin.take());
        children[2].wait().unwrap();
    }
}
