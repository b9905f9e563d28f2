//! What deletes did below a prefix, as workers tell each other.

use std::time::Duration;

use quickwater_engine::DeletesBelow;
use quickwater_peer::{DeletedBelow, decode};

pub(crate) fn deletes_to_wire(deletes: DeletesBelow) -> DeletedBelow {
    // Rounded down, and so never older than they are.
    let micros = |age: Duration| u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    let folders = deletes.folders.into_iter();
    let (folders, ages_us) = folders.map(|(folder, age)| (folder, micros(age))).unzip();
    DeletedBelow {
        known_for_us: micros(deletes.known_for),
        folders,
        ages_us,
    }
}

/// `unsent`: see [`DeletesBelow::unsent`].
pub(super) fn deletes_from_wire(unsent: bool, message: &[u8]) -> DeletesBelow {
    let told: DeletedBelow = match decode(message) {
        Ok(told) => told,
        Err(error) => {
            tracing::warn!(%error, "another worker's account of its deletes cannot be read");
            return DeletesBelow::unknown();
        }
    };
    if told.folders.len() != told.ages_us.len() {
        tracing::warn!("another worker's account of its deletes cannot be right");
        return DeletesBelow::unknown();
    }
    let ages = told.ages_us.into_iter().map(Duration::from_micros);
    DeletesBelow {
        unsent,
        known_for: Duration::from_micros(told.known_for_us),
        folders: told.folders.into_iter().zip(ages).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use quickwater_peer::Message;

    use super::*;

    #[test]
    fn deletes_arrive_as_they_were_told() {
        let deletes = DeletesBelow {
            unsent: true,
            known_for: Duration::from_secs(9),
            folders: HashMap::from([
                ("a/".to_owned(), Duration::from_millis(3)),
                ("b/".to_owned(), Duration::ZERO),
            ]),
        };
        let sent = deletes_to_wire(deletes.clone()).encode_to_vec();
        assert_eq!(deletes_from_wire(true, &sent), deletes);
    }

    #[test]
    fn of_an_older_worker_nothing_is_known() {
        let told = deletes_from_wire(false, &[]);
        assert!(!told.unsent && told.known_for.is_zero());
        assert_eq!(deletes_from_wire(false, &[0xff]), DeletesBelow::unknown());
        let uneven = DeletedBelow {
            folders: vec!["a/".into()],
            ..DeletedBelow::default()
        };
        let told = deletes_from_wire(false, &uneven.encode_to_vec());
        assert_eq!(told, DeletesBelow::unknown());
    }
}
