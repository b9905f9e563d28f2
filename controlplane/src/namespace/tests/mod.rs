//! Tests of the rules over the in-memory store.
