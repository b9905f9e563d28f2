//! What keeps a worker whose session is over from changing a directory, even if it was
//! frozen in the very system call. Absent: whose session is over (`standing`).
//!
//! Everything becomes visible by a rename out of the folder of a session, and goes by a
//! rename into it. Before a worker changes anything after others' sessions ended, it
//! removes their folders: a rename out of or into a folder that is gone fails, however
//! late it comes. What was renamed before is replaced by what is written now.

use std::sync::{Arc, PoisonError};

use quickwater_proto::{NodeId, UfsError, UfsErrorKind};
use rustix::io::Errno;

use super::Core;
use super::errors::failed;
use super::root::Root;
use super::staging::{StagedFile, Staging, TMP, names_in, remove_folder};
use crate::standing::{Permit, Standing, refused};

/// Attempts at removing a folder that somebody still writes to.
const REMOVE_ATTEMPTS: usize = 64;

/// Name of the folder of a session: node, session, and what tells two apart.
pub(super) fn folder_name(node: &NodeId, session: u64, random: &str) -> String {
    format!("{node}.{session}.{random}")
}

/// Whose folder it is; `None`: not of a worker among others.
pub(super) fn owner_of(name: &str) -> Option<(NodeId, u64)> {
    let (rest, _random) = name.rsplit_once('.')?;
    let (node, session) = rest.rsplit_once('.')?;
    Some((NodeId::new(node).ok()?, session.parse().ok()?))
}

impl Core {
    /// To be called right before a staged file is published, or a file is removed by it.
    ///
    /// # Errors
    /// It must not be; nothing changed.
    pub(super) fn admit(
        &self,
        root: &Root,
        staging: &Arc<Staging>,
        permit: &Permit,
    ) -> Result<(), UfsError> {
        if let Some(standing) = &self.context.standing {
            self.fence(root, standing)?;
            // One of before a time without a lease may be about to be removed.
            if !Arc::ptr_eq(&self.staging(root)?, staging) {
                return Err(refused("what was staged is of a session that is over"));
            }
        }
        permit.check()
    }

    /// A file to remove another one by (see `objects::remove`).
    /// `None`: there are no others, or the directory takes none.
    pub(super) fn grave(&self, root: &Root) -> Result<Option<StagedFile>, UfsError> {
        if self.context.standing.is_none() {
            return Ok(None);
        }
        match self.stage(root) {
            Ok(grave) => Ok(Some(grave)),
            // Nothing can be put here either, so there is nothing to revert.
            Err(error)
                if matches!(
                    error.kind,
                    UfsErrorKind::AccessDenied | UfsErrorKind::NoSpace
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the folders of all sessions that are over, once for each time that more
    /// are.
    fn fence(&self, root: &Root, standing: &Standing) -> Result<(), UfsError> {
        // First the number: what is over is at least what it stands for.
        let news = standing.news();
        let mut fenced = root.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        if *fenced == news {
            return Ok(());
        }
        let names = names_in(root, TMP).map_err(|e| failed("look through", TMP, e))?;
        for name in names {
            let owner = owner_of(&name);
            if owner.is_some_and(|(node, session)| standing.is_over(&node, session)) {
                remove(root, &format!("{TMP}/{name}"))?;
            }
        }
        *fenced = news;
        Ok(())
    }
}

/// Removes a folder, whoever still writes to it.
fn remove(root: &Root, path: &str) -> Result<(), UfsError> {
    for _ in 0..REMOVE_ATTEMPTS {
        match remove_folder(root, path) {
            Ok(()) => {
                tracing::info!(path, "the folder of a session that is over was removed");
                return Ok(());
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed("remove", path, errno)),
        }
    }
    let message = format!("'{path}' is written to by a worker whose session is over");
    Err(UfsError::new(UfsErrorKind::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_whose_they_are() {
        let node = NodeId::new("n1.rack-2").unwrap();
        let name = folder_name(&node, 12, "00ff");
        assert_eq!(owner_of(&name), Some((node, 12)));
        for other in ["0123456789abcdef", "n1.x.00", "n1.3", ".1.0", "N.1.0"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
