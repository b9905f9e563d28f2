//! Where a field is in a structure of the running kernel, by its own description of its
//! types (BTF). Absent: types without a name of their own that are not asked for.

use std::path::Path;

/// Where the kernel describes its types.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Why the place of a field is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("the kernel does not describe its types: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("the kernel's description of its types is cut off, or of a new kind")]
    Malformed,
    #[error("the kernel has no {0}")]
    Missing(&'static str),
}

/// Bytes from the start of structure `outer` to `inner`, which is a field of the structure
/// that is its field `middle`.
///
/// # Errors
/// The description cannot be read, or has no such fields.
pub(crate) fn offset(
    description: &Path,
    outer: &'static str,
    middle: &'static str,
    inner: &'static str,
) -> Result<u32, NotFound> {
    let bytes = std::fs::read(description)?;
    let types = Types::read(&bytes).ok_or(NotFound::Malformed)?;
    let outer = types.named(outer).ok_or(NotFound::Missing(outer))?;
    let (kind, first) = types.field(outer, middle)?;
    let (_, second) = types.field(kind, inner)?;
    Ok(first + second)
}

/// One type: where it is described, and what of.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    fields: u32,
    has_bit_fields: bool,
}

struct Types<'b> {
    bytes: &'b [u8],
    strings: &'b [u8],
    /// By number; the first one is number 1.
    all: Vec<Type>,
}

impl<'b> Types<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let magic = bytes.get(..2)?.try_into().ok()?;
        if u16::from_ne_bytes(magic) != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| -> Option<&'b [u8]> {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (described, strings) = (section(8)?, section(16)?);
        let mut all = Vec::new();
        let mut at = 0;
        while at < described.len() {
            let about = word(described, at + 4)?;
            let (kind, count) = (about >> 24 & 0x1f, about & 0xffff);
            all.push(Type {
                at: at + 12,
                name: word(described, at)?,
                kind,
                fields: count,
                has_bit_fields: about >> 31 == 1,
            });
            at = at.checked_add(12 + rest(kind, count as usize)?)?;
        }
        Some(Types {
            bytes: described,
            strings,
            all,
        })
    }

    fn named(&self, name: &str) -> Option<Type> {
        let is_wanted = |of: &&Type| of.kind == STRUCT && self.is_called(of.name, name);
        self.all.iter().find(is_wanted).copied()
    }

    /// The type of a field, and bytes before it.
    fn field(&self, of: Type, name: &'static str) -> Result<(Type, u32), NotFound> {
        let missing = NotFound::Missing(name);
        if !matches!(of.kind, STRUCT | UNION) {
            return Err(missing);
        }
        let find = || -> Option<(Type, u32)> {
            for index in 0..of.fields as usize {
                let at = of.at + 12 * index;
                if !self.is_called(word(self.bytes, at)?, name) {
                    continue;
                }
                let number = word(self.bytes, at + 4)? as usize;
                let mut bits = word(self.bytes, at + 8)?;
                if of.has_bit_fields {
                    bits &= 0x00ff_ffff;
                }
                let kind = self.all.get(number.checked_sub(1)?)?;
                return Some((*kind, bits / 8));
            }
            None
        };
        find().ok_or(missing)
    }

    fn is_called(&self, name: u32, wanted: &str) -> bool {
        let text = self.strings.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Bytes that follow the first twelve of a type (Documentation/bpf/btf.rst); `None`: a
/// kind that is not known here.
fn rest(kind: u32, count: usize) -> Option<usize> {
    match kind {
        // Pointers, forward declarations, other names, qualifiers, functions, floats, tags.
        2 | 7..=12 | 16 | 18 => Some(0),
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => Some(4),
        // Arrays.
        3 => Some(12),
        // Structures and unions, sections, enumerations of 64 bits.
        STRUCT | UNION | 15 | 19 => Some(12 * count),
        // Enumerations, signatures.
        6 | 13 => Some(8 * count),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct sock { int a; struct { int b; int c; } inside; }`, as a description.
    fn description() -> Vec<u8> {
        let strings = b"\0int\0sock\0a\0inside\0b\0c\0";
        let name = |wanted: &str| {
            let wanted = [b"\0", wanted.as_bytes(), b"\0"].concat();
            let found = strings.windows(wanted.len()).position(|at| at == wanted);
            found.unwrap() as u32 + 1
        };
        let types = [
            // 1: int
            vec![name("int"), 1 << 24, 4, 32],
            // 2: the one without a name
            vec![0, STRUCT << 24 | 2, 8, name("b"), 1, 0, name("c"), 1, 32],
            // 3: sock, with bit fields
            vec![
                name("sock"),
                1 << 31 | STRUCT << 24 | 2,
                12,
                name("a"),
                1,
                32 << 24,
                name("inside"),
                2,
                32,
            ],
        ]
        .concat();
        let length = (types.len() * 4) as u32;
        let header = [MAGIC.into(), 24, 0, length, length, strings.len() as u32];
        let words = header.into_iter().chain(types);
        let mut bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        bytes.extend(strings);
        bytes
    }

    fn find(bytes: &[u8], names: [&'static str; 3]) -> Result<u32, String> {
        let file = std::env::temp_dir().join(format!(
            "quickwater-btf-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&file, bytes).unwrap();
        let found = offset(&file, names[0], names[1], names[2]);
        std::fs::remove_file(&file).unwrap();
        found.map_err(|why| why.to_string())
    }

    #[test]
    fn a_field_of_a_field_is_found() {
        let bytes = description();
        assert_eq!(find(&bytes, ["sock", "inside", "b"]), Ok(4));
        assert_eq!(find(&bytes, ["sock", "inside", "c"]), Ok(8));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let bytes = description();
        let why = |names| find(&bytes, names).unwrap_err();
        assert_eq!(why(["sack", "inside", "c"]), "the kernel has no sack");
        assert_eq!(why(["sock", "outside", "c"]), "the kernel has no outside");
        assert_eq!(why(["sock", "a", "c"]), "the kernel has no c");
    }

    #[test]
    fn a_description_that_is_cut_off_is_refused() {
        let bytes = description();
        for length in 0..bytes.len() {
            assert!(find(&bytes[..length], ["sock", "inside", "c"]).is_err());
        }
        assert!(offset(Path::new("/nonexistent"), "a", "b", "c").is_err());
    }

    #[test]
    fn this_kernel_describes_its_sockets_if_any() {
        match offset(Path::new(VMLINUX), "sock", "sk_backlog", "rmem_alloc") {
            Ok(offset) => assert!(offset > 0 && offset < 4096),
            Err(why @ NotFound::Unreadable(_)) => eprintln!("SKIPPED: {why}"),
            Err(why) => panic!("{why}"),
        }
    }
}
