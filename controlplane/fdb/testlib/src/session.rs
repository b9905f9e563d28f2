//! What a transaction reads and writes: in this process, or in the test server's.
//! The error codes are those of the C API.

use std::sync::Arc;

use bytes::Bytes;
use quickwater_controlplane::store::{CommitVersion, KeyRange, Rows, Scan};

use crate::database::{Database, Place};
use crate::local::Local;
use crate::remote::Remote;
use crate::wire::{Question, Reply};

const INTERNAL_ERROR: i32 = 4100;

/// One attempt at a transaction, from its creation or reset on.
pub(crate) enum Session {
    Local(Box<Local>),
    Remote(Remote),
}

impl Session {
    pub(crate) fn begin(database: &Database) -> Self {
        match &database.place {
            Place::Here(store) => Self::Local(Box::new(Local::begin(store))),
            Place::Server(connections) => Self::Remote(Remote::begin(Arc::clone(connections))),
        }
    }

    fn ask(&mut self, question: Question) -> Reply {
        match self {
            Self::Local(local) => local.answer(question),
            Self::Remote(remote) => remote.ask(&question),
        }
    }

    /// The version it reads at, from its first read on.
    pub(crate) fn read_version(&mut self) -> Result<u64, i32> {
        number(self.ask(Question::ReadVersion))
    }

    pub(crate) fn get(&mut self, key: &[u8], snapshot: bool) -> Result<Option<Bytes>, i32> {
        match self.ask(Question::Get(Bytes::copy_from_slice(key), snapshot)) {
            Reply::Value(value) => Ok(value),
            other => Err(code(&other)),
        }
    }

    pub(crate) fn scan(&mut self, scan: Scan) -> Result<Rows, i32> {
        match self.ask(Question::Scan(scan)) {
            Reply::Rows(rows) => Ok(rows),
            other => Err(code(&other)),
        }
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.ask(Question::Set(key, value));
    }

    pub(crate) fn clear(&mut self, key: &[u8]) {
        self.ask(Question::Clear(Bytes::copy_from_slice(key)));
    }

    pub(crate) fn clear_range(&mut self, range: KeyRange) {
        self.ask(Question::ClearRange(range));
    }

    pub(crate) fn add(&mut self, key: &[u8], delta: i64) {
        self.ask(Question::Add(Bytes::copy_from_slice(key), delta));
    }

    pub(crate) fn stamp(&mut self, key: &[u8], template: &[u8], offset: usize) {
        let (key, template) = (
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(template),
        );
        self.ask(Question::Stamp(key, template, offset as u64));
    }

    pub(crate) fn read_conflict(&mut self, range: KeyRange) {
        self.ask(Question::ReadConflict(range));
    }

    pub(crate) fn write_conflict(&mut self, range: KeyRange) {
        self.ask(Question::WriteConflict(range));
    }

    pub(crate) fn bytes(&mut self) -> usize {
        let bytes = number(self.ask(Question::Bytes)).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub(crate) async fn commit(self) -> Result<CommitVersion, i32> {
        let reply = match self {
            Self::Local(local) => local.commit().await,
            // Waits for a socket, which the network thread must not.
            Self::Remote(mut remote) => {
                let asked = tokio::task::spawn_blocking(move || remote.ask(&Question::Commit));
                asked.await.unwrap_or(Reply::Failed(INTERNAL_ERROR))
            }
        };
        match reply {
            Reply::Committed(version) => Ok(version),
            other => Err(code(&other)),
        }
    }
}

fn number(reply: Reply) -> Result<u64, i32> {
    match reply {
        Reply::Number(number) => Ok(number),
        other => Err(code(&other)),
    }
}

fn code(reply: &Reply) -> i32 {
    match reply {
        Reply::Failed(code) => *code,
        _ => INTERNAL_ERROR,
    }
}
