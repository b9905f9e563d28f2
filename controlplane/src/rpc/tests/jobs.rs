//! Jobs over gRPC.

use crate::jobs::{Jobs, JobsConfig};
