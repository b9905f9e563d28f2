//! `libfdb_c.so`: the test library as a shared library. Absent: everything; it is in
//! the crate that this one consists of.

extern crate quickwater_foundationdb_testlib as _;
