//! Who holds a file lock that somebody waits for: `/proc/locks` names each lock's owner, and below it those who wait.

/// The process that holds the lock for which `waiter` waits, on the file with this inode number where it is known.
///
/// A line is `id: [->] FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF`; those who wait have the id of the lock that
/// blocks them, and an arrow (fs/locks.c, `lock_get_status`).
#[must_use]
pub fn holder(locks: &str, waiter: u32, inode: Option<u64>) -> Option<u32> {
    let mut found = None;
    let mut owner: Option<(&str, u32)> = None;
    for line in locks.lines() {
        let Some((id, rest)) = line.split_once(':') else { continue };
        let (waits, rest) = match rest.trim_start().strip_prefix("->") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let mut words = rest.split_whitespace();
        let (Some("FLOCK"), pid, file) = (words.next(), words.nth(2), words.next()) else { continue };
        let (Some(Ok(pid)), Some(file)) = (pid.map(str::parse), file) else { continue };
        if !waits {
            owner = Some((id, pid));
            continue;
        }
        let same_file = inode.is_none_or(|inode| file.rsplit(':').next() == Some(inode.to_string().as_str()));
        if pid == waiter
            && same_file
            && let Some((_, owner)) = owner.filter(|(of, _)| *of == id)
        {
            // Two waits that cannot be told apart: it is one of them, and not known which.
            if found.is_some_and(|found| found != owner) {
                return None;
            }
            found = Some(owner);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 900 fd:01:77 0 EOF
2: FLOCK  ADVISORY  WRITE 100 fd:01:11 0 EOF
2: -> FLOCK  ADVISORY  WRITE 200 fd:01:11 0 EOF
2:     -> FLOCK  ADVISORY  WRITE 300 fd:01:11 0 EOF
3: FLOCK  ADVISORY  READ  101 00:2e:12 0 EOF
3: -> FLOCK  ADVISORY  WRITE 200 00:2e:12 0 EOF
4: FLOCK  ADVISORY  WRITE 102 <none>:0 0 EOF
";

    #[test]
    fn the_owner_is_the_line_that_the_waiters_stand_below() {
        assert_eq!(holder(LOCKS, 300, Some(11)), Some(100));
        assert_eq!(holder(LOCKS, 200, Some(11)), Some(100));
        assert_eq!(holder(LOCKS, 200, Some(12)), Some(101));
        assert_eq!(holder(LOCKS, 300, None), Some(100));
        assert_eq!(holder(LOCKS, 200, None), None, "it waits for two");
        assert_eq!(holder(LOCKS, 100, None), None);
        assert_eq!(holder(LOCKS, 300, Some(12)), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9:> FLOCK\n-]{0,200}") {
            let _ = holder(&text, 1, Some(1));
        }
    }
}
