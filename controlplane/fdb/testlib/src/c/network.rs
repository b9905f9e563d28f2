//! Version and network.
#![expect(unsafe_code, reason = "exported under the names of the C API")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use foundationdb_sys::{FDB_API_VERSION, FDBNetworkOption, fdb_error_t};

use super::code;
use crate::network;

const API_VERSION_ALREADY_SET: i32 = 2201;
const API_VERSION_NOT_SUPPORTED: i32 = 2203;
/// The version this library obeys.
const VERSION: c_int = FDB_API_VERSION as c_int;

static SELECTED: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C" fn fdb_select_api_version_impl(runtime: c_int, header: c_int) -> fdb_error_t {
    if runtime != VERSION || header != VERSION {
        return API_VERSION_NOT_SUPPORTED;
    }
    match SELECTED.swap(true, Ordering::SeqCst) {
        true => API_VERSION_ALREADY_SET,
        false => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn fdb_get_max_api_version() -> c_int {
    VERSION
}

/// All are taken, none does anything: there are no traces, no TLS, no other clients.
#[unsafe(no_mangle)]
extern "C" fn fdb_network_set_option(
    _option: FDBNetworkOption,
    _value: *const u8,
    _length: c_int,
) -> fdb_error_t {
    0
}

#[unsafe(no_mangle)]
extern "C" fn fdb_setup_network() -> fdb_error_t {
    code(network::set_up())
}

#[unsafe(no_mangle)]
extern "C" fn fdb_run_network() -> fdb_error_t {
    code(network::run())
}

#[unsafe(no_mangle)]
extern "C" fn fdb_stop_network() -> fdb_error_t {
    code(network::stop())
}
