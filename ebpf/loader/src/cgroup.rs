//! Where the cgroups of version 2 are.

use std::path::PathBuf;

/// The root of the cgroup2 hierarchy, as the mount table has it: on hybrid systems it is
/// somewhere below /sys/fs/cgroup. `None`: it is not mounted here.
#[must_use]
pub fn cgroup_root() -> Option<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&table)
}

/// Fields as in proc_pid_mountinfo(5): the mount point is the fifth, the type the first
/// after ` - `.
fn find(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_wanted = file_system.split(' ').next() == Some("cgroup2");
        let point = mount.split(' ').nth(4)?;
        is_wanted.then(|| PathBuf::from(unescape(point)))
    })
}

/// Spaces and the like are written as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let hybrid = "\
            24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw\n\
            30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/un\\040ified rw shared:9 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(find(hybrid), Some(PathBuf::from("/sys/fs/cgroup/un ified")));
        assert_eq!(find("24 1 0:22 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
