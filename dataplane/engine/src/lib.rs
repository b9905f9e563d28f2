//! What happens to a request: pure decisions and the flows that use them.
//!
//! Absent on purpose: sockets, files, clocks, randomness, monoio, tokio and S3
//! text. Time, disks, the UFS and the metadata are reached through [`io`] only,
//! so the same flows run in production and in simulation.

#![expect(
    async_fn_in_trait,
    reason = "flows are generic, never dyn, and live on one shard"
)]

mod decisions;
mod engine;
mod error;
mod flows;
pub mod io;
mod shared;

pub use decisions::anchors::Anchors;
pub use decisions::clearing::Clearing;
pub use decisions::copy_holders::{Copied, CopyHolders};
pub use decisions::held_copies::HeldCopies;
pub use decisions::job_tasks::{JobAnswer, JobTasks, TASKS_MAX};
pub use decisions::journal::Journal;
pub use decisions::lag::Lag;
pub use decisions::notes::{Notes, note_blob};
pub use decisions::opened::Opened;
pub use decisions::persist_queue::{
    CHANGE_BYTES, PersistConfig, PersistQueue, QueuePage, QueueScope, QueueSum, QueueTotals,
    QueuedChange, QueuedState,
};
pub use decisions::policies::Policies;
pub use decisions::recent_deletes::DeletesBelow;
pub use decisions::rights::Rights;
pub use decisions::slots::SLOTS;
pub use decisions::transient::Transient;
pub use engine::{Engine, World};
pub use error::FlowError;
pub use flows::complete::CompletedUpload;
pub use flows::keep_copy::KeptCopy;
pub use flows::list::{ListPage, ListQuery};
pub use flows::multipart::NewUpload;
pub use flows::put::{PutError, PutObject};
pub use flows::read::{CacheResult, ObjectReader};
pub use flows::sweep::Swept;
pub use shared::{EngineConfig, EngineStats, Shared};
