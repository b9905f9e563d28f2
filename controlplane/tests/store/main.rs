//! Tests of the metadata store: every engine, the faults, crashes and speed.

#[cfg(test)]
#[macro_use]
mod support;

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod cleared;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod model;
#[cfg(test)]
mod power;
#[cfg(test)]
mod rate;
#[cfg(test)]
mod reopen;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod serializable;
