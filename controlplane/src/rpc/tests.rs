//! Tests of the admin service over a loopback connection.
