//! Reading a file in pieces, with its identity checked before every piece leaves.

use std::ops::Range;
use std::sync::Arc;

use quickwater_proto::{ObjectKey, UfsError, UfsErrorKind, UfsIdentity};
use rustix::fd::OwnedFd;
use rustix::fs::fstat;
use rustix::io::Errno;

use super::errors::failed;
use super::{Posix, attributes, objects};
use crate::buffers::ReadBuffer;
use crate::mailbox::Outgoing;

/// An open file and what is to be read of it.
#[derive(Debug)]
pub(crate) struct Source {
    file: Arc<OwnedFd>,
    key: ObjectKey,
    expect: UfsIdentity,
    range: Range<u64>,
}

impl Posix {
    /// Opens the object if it still has the content expected.
    pub(crate) async fn open_read(
        &self,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<Source, UfsError> {
        let (key, expect) = (key.clone(), expect.clone());
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "open", move |core, _| {
            let found = objects::open(&*core.root()?, key.as_str())?;
            if attributes::identity(&found.stat) != expect {
                return Err(changed(&key));
            }
            Ok(Source {
                file: Arc::new(found.fd),
                key,
                expect,
                range,
            })
        })
        .await
    }

    /// Sends all pieces, or the error that ends them.
    pub(crate) async fn stream(
        &self,
        mut source: Source,
        outgoing: Outgoing,
    ) -> Result<(), UfsError> {
        let config = &self.core.context.config;
        while source.range.start < source.range.end {
            let piece = tokio::select! {
                buffer = self.core.context.buffers.take(config.caller_timeout) => buffer,
                () = outgoing.closed() => return Ok(()),
            };
            let piece = match piece {
                Ok(buffer) => self.piece(&source, buffer).await,
                Err(error) => Err(error),
            };
            match piece {
                Ok(piece) => {
                    source.range.start += piece.bytes.len() as u64;
                    if !outgoing.send(vec![piece.into_bytes()]).await {
                        return Ok(());
                    }
                }
                Err(error) => {
                    outgoing.fail(error.clone()).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn piece(&self, source: &Source, mut buffer: ReadBuffer) -> Result<ReadBuffer, UfsError> {
        let limit = self.core.context.config.idle_timeout;
        let piece_bytes = self.core.context.buffers.piece_bytes() as u64;
        let start = source.range.start;
        let length = piece_bytes.min(source.range.end - start);
        let (file, key, expect) = (
            source.file.clone(),
            source.key.clone(),
            source.expect.clone(),
        );
        self.blocking(limit, "read", move |_, _| {
            // At most a piece, which is a usize.
            fill(
                &file,
                start,
                usize::try_from(length).unwrap_or(0),
                &mut buffer.bytes,
            )
            .map_err(|e| failed("read", &key, e))?;
            let stat = fstat(&*file).map_err(|e| failed("read", &key, e))?;
            if attributes::identity(&stat) != expect {
                return Err(changed(&key));
            }
            if (buffer.bytes.len() as u64) < length {
                let message = format!("'{key}' ended before its length");
                return Err(UfsError::new(UfsErrorKind::Corrupt, message));
            }
            Ok(buffer)
        })
        .await
    }
}

fn changed(key: &ObjectKey) -> UfsError {
    UfsError::new(
        UfsErrorKind::Changed,
        format!("'{key}' was changed in the UFS"),
    )
}

/// Reads `length` bytes, or fewer at the end of the file.
fn fill(file: &OwnedFd, start: u64, length: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.clear();
    if out.capacity() > length {
        // `pread` fills all that is free, which is more than was asked for.
        out.resize(length, 0);
        let read = fill_slice(file, start, out)?;
        out.truncate(read);
        return Ok(());
    }
    while out.len() < length {
        let at = start + out.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(out), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn fill_slice(file: &OwnedFd, start: u64, out: &mut [u8]) -> Result<usize, Errno> {
    let mut read = 0;
    while read < out.len() {
        match rustix::io::pread(file, &mut out[read..], start + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(read)
}
