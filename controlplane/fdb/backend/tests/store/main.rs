//! Tests of the FoundationDB backend: the behaviour of every store, transactions at
//! once, and the namespace over it, with the test library and its faults, or against
//! a real cluster.
//!
//! `QUICKWATER_FDB_CLIENT_LIBRARY` and `QUICKWATER_FDB_CLUSTER_FILE` name a real
//! client library and a cluster: then the same tests run there, behind the key prefix
//! `quickwater-test/`, and those that need faults are left out.

#[cfg(test)]
#[macro_use]
mod support;

#[cfg(test)]
#[path = "../../../../tests/store/behaviour/mod.rs"]
mod behaviour;
#[cfg(test)]
#[path = "../../../../tests/store/histories.rs"]
mod histories;
#[cfg(test)]
#[path = "../../../../tests/store/model.rs"]
mod model;
#[cfg(test)]
#[path = "../../../../tests/store/rows.rs"]
mod rows;

#[cfg(test)]
mod at_once;
#[cfg(test)]
mod claim;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forwarders;
#[cfg(test)]
mod library;
#[cfg(test)]
mod namespace;
#[cfg(test)]
mod open;
#[cfg(test)]
mod server;
