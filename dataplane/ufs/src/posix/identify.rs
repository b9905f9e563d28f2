//! Whether the directory at a mount's path is the one its bucket was written to:
//! looked at whenever the directory is opened, marked before the first write.
//! Absent: the format of the mark (`identity`).

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use quickwater_proto::{BucketName, UfsError, UfsErrorKind};

use super::identity::{self, MARK, Mark};
use super::root::{Place, Root};
use super::{Core, Posix};

impl Posix {
    /// Opens the directory, if it is the right one.
    pub(crate) async fn look(&self) -> Result<(), UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "look at directory", |core, _| core.root().map(drop))
            .await
    }

    /// Takes the directory that is there for the right one.
    pub(crate) async fn accept(&self) -> Result<(), UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "accept directory", |core, _| core.accept())
            .await
    }

    /// Why the directory that is there is not the right one.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.core.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Core {
    /// The root, opened again if another directory took its place.
    ///
    /// # Errors
    /// [`UfsErrorKind::Unavailable`]: it is gone, or not the directory that was
    /// written to. A file system that is not mounted must not look like a bucket
    /// without objects, and what is written to its mount point is lost.
    pub(super) fn root(&self) -> Result<Arc<Root>, UfsError> {
        let known = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.root.clone()
        };
        let place = match &known {
            Some(root) => root.place()?,
            None => Place::Replaced,
        };
        if let (Some(root), Place::Current) = (known, place) {
            self.right();
            return Ok(root);
        }
        let root = Arc::new(Root::open(&self.path)?);
        self.identify(&root, place)?;
        Ok(self.keep_open(root))
    }

    /// Keeps a root, unless another call has opened the same directory meanwhile: what is
    /// staged there must not be taken for that of another directory.
    pub(super) fn keep_open(&self, root: Arc<Root>) -> Arc<Root> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.root {
            Some(open) if open.is_same(&root) => Arc::clone(open),
            _ => {
                state.root = Some(Arc::clone(&root));
                state.staging = None;
                root
            }
        }
    }

    /// Compares the mark of a directory with the identity that is kept.
    fn identify(&self, root: &Root, place: Place) -> Result<(), UfsError> {
        let Some((_, name)) = &self.bucket else {
            return Ok(());
        };
        let expected = self.expected()?;
        let found = match (identity::read(root), &expected) {
            (Err(error), None) if error.kind == UfsErrorKind::AccessDenied => Mark::Missing,
            (found, _) => found?,
        };
        match (&expected, &found) {
            (Some(expected), Mark::Is(found)) if expected == found => {
                root.marked.store(true, Ordering::Release);
            }
            (Some(_), found) => return Err(self.wrong(name, found)),
            (None, _) if place == Place::OtherDevice => {
                let path = self.path.display();
                let message = format!("another file system is mounted at '{path}'");
                return Err(UfsError::new(UfsErrorKind::Unavailable, message));
            }
            // Marked by another node, or before our metadata was lost.
            (None, Mark::Is(found)) => {
                self.keep(Some(found))?;
                root.marked.store(true, Ordering::Release);
            }
            (None, Mark::Missing | Mark::Damaged) => {}
        }
        self.right();
        Ok(())
    }

    /// Makes sure that a directory about to be written to is marked.
    pub(super) fn mark(&self, root: &Root) -> Result<(), UfsError> {
        let Some((_, name)) = &self.bucket else {
            return Ok(());
        };
        if root.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let expected = self.expected()?;
        let found = identity::make(root, expected.as_deref())?;
        match expected {
            None => self.keep(Some(&found))?,
            Some(expected) if expected == found => {}
            Some(_) => return Err(self.wrong(name, &Mark::Is(found))),
        }
        root.marked.store(true, Ordering::Release);
        Ok(())
    }

    fn accept(&self) -> Result<(), UfsError> {
        let root = Arc::new(Root::open(&self.path)?);
        let found = match identity::make(&root, None) {
            Ok(found) => Some(found),
            // It can be read; there is nothing to protect from writes.
            Err(error) if error.kind == UfsErrorKind::AccessDenied => None,
            Err(error) => return Err(error),
        };
        self.keep(found.as_deref())?;
        root.marked.store(found.is_some(), Ordering::Release);
        self.keep_open(root);
        self.right();
        Ok(())
    }

    fn expected(&self) -> Result<Option<String>, UfsError> {
        match &self.bucket {
            Some((bucket, _)) => self.context.identities.identity(*bucket).map_err(unkept),
            None => Ok(None),
        }
    }

    /// Keeps the identity of the directory for the next start.
    pub(super) fn keep(&self, identity: Option<&str>) -> Result<(), UfsError> {
        match &self.bucket {
            Some((bucket, _)) => {
                let kept = self.context.identities.keep(*bucket, identity);
                kept.map_err(unkept)
            }
            None => Ok(()),
        }
    }

    fn wrong(&self, name: &BucketName, found: &Mark) -> UfsError {
        let why = match found {
            Mark::Missing => format!("its mark {MARK} is missing"),
            Mark::Damaged => format!("its mark {MARK} cannot be read"),
            Mark::Is(_) => format!("its mark {MARK} is that of another directory"),
        };
        let message = format!(
            "'{}' is not the directory that bucket '{name}' was written to: {why}. Is its file \
             system mounted? Nothing is read or written there until it is; should this \
             directory be meant: `quickwater mount accept {name}`",
            self.path.display()
        );
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_deref() != Some(message.as_str()) {
            tracing::error!(bucket = %name, "{message}");
            *trouble = Some(message.clone());
        }
        UfsError::new(UfsErrorKind::Unavailable, message)
    }

    fn right(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.take().is_some() {
            tracing::info!(path = %self.path.display(), "the directory of this mount is the right one again");
        }
    }
}

fn unkept(why: String) -> UfsError {
    let message = format!("the identity of the directory is not known: {why}");
    UfsError::new(UfsErrorKind::Unavailable, message)
}
