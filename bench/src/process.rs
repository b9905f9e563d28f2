//! What processes of this machine cost, from `/proc` (proc(5)): CPU time of all
//! threads, io_uring's workers among them, and resident memory.

use std::collections::BTreeMap;
use std::fs;

use thiserror::Error;

/// Processes of one server.
const PROCESSES_MAX: usize = 4096;

/// Processes that cannot be measured.
#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    #[error("`{0}` is not a process id, nor tree:PID")]
    Shape(String),
    #[error("process {0} is not there")]
    Gone(u32),
}

/// A process, or it and its descendants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root {
    pid: u32,
    tree: bool,
}

/// The processes of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processes(Vec<Root>);

/// What they cost until now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Since they began.
    pub(crate) cpu_seconds: f64,
    /// Now.
    pub(crate) rss_bytes: u64,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time, ticks.
    own: u64,
    /// The same of children that ended and were waited for.
    children: u64,
    resident_pages: u64,
}

impl Processes {
    /// Reads `PID` and `tree:PID`.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, ProcessError> {
        let roots = texts.iter().map(|text| {
            let (tree, pid) = match text.strip_prefix("tree:") {
                Some(rest) => (true, rest),
                None => (false, text.as_str()),
            };
            let pid = pid.trim().parse().ok().filter(|p| *p > 0);
            let pid = pid.ok_or_else(|| ProcessError::Shape(text.clone()))?;
            Ok(Root { pid, tree })
        });
        Ok(Self(roots.collect::<Result<_, ProcessError>>()?))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cost until now. A process of a tree that ended counts through the one
    /// that waited for it.
    pub(crate) fn cost(&self) -> Result<Cost, ProcessError> {
        let with_children = self.0.iter().any(|r| r.tree);
        let all = if with_children {
            all_processes()
        } else {
            BTreeMap::new()
        };
        let (mut ticks, mut pages) = (0, 0);
        for root in &self.0 {
            let stat = read(root.pid).ok_or(ProcessError::Gone(root.pid))?;
            ticks += stat.own;
            pages += stat.resident_pages;
            if root.tree {
                ticks += stat.children;
                for stat in descendants(&all, root.pid) {
                    ticks += stat.own + stat.children;
                    pages += stat.resident_pages;
                }
            }
        }
        Ok(Cost {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            rss_bytes: pages * rustix::param::page_size() as u64,
        })
    }
}

fn all_processes() -> BTreeMap<u32, Stat> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, read(pid)?))).collect()
}

fn descendants(all: &BTreeMap<u32, Stat>, root: u32) -> Vec<Stat> {
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        for (pid, stat) in all.iter().filter(|(_, s)| s.parent == parent) {
            if found.len() < PROCESSES_MAX {
                found.push(*stat);
                parents.push(*pid);
            }
        }
    }
    found
}

fn read(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name may hold blanks and parentheses; fields are counted after
/// the last one.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first field here is the third of proc(5).
    let number = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        own: number(14)? + number(15)?,
        children: number(16)? + number(17)?,
        resident_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "42 (a ) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 500 9999 250 18446744073709551615 1 1";
        let stat = Stat {
            parent: 7,
            own: 120,
            children: 7,
            resident_pages: 250,
        };
        assert_eq!(parse(text), Some(stat));
        assert_eq!(parse("42 (a) S 7"), None);
    }

    #[test]
    fn trees_have_all_descendants() {
        let stat = |parent, own| Stat {
            parent,
            own,
            children: 0,
            resident_pages: 1,
        };
        let all = BTreeMap::from([
            (2, stat(1, 10)),
            (3, stat(2, 20)),
            (4, stat(3, 40)),
            (5, stat(1, 80)),
        ]);
        let sum = |root| descendants(&all, root).iter().map(|s| s.own).sum::<u64>();
        assert_eq!((sum(1), sum(2), sum(4)), (150, 60, 0));
    }

    #[test]
    fn this_process_has_memory_and_its_time_grows() {
        let me = Processes::parse(&[std::process::id().to_string()]).unwrap();
        let before = me.cost().unwrap();
        assert!(before.rss_bytes > 100_000);
        let own = crate::machine::own_cpu_seconds;
        let end = own() + 0.05;
        while own() < end {
            std::hint::black_box(0);
        }
        assert!(me.cost().unwrap().cpu_seconds > before.cpu_seconds);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "x", "0", "-1", "tree:", "tree"] {
            assert!(Processes::parse(&[text.to_owned()]).is_err(), "{text}");
        }
        let nobody = Processes::parse(&["4194305".into()]).unwrap();
        assert!(matches!(nobody.cost(), Err(ProcessError::Gone(4_194_305))));
    }
}
