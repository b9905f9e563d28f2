//! The types of `fdb_c.h` and `fdb_c_types.h`, laid out as there.

use std::ffi::{c_int, c_uchar, c_void};

macro_rules! opaque {
    ($($name:ident)*) => {
        $(
            /// A handle of the client library.
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                opaque: [u8; 0],
            }
        )*
    };
}

opaque!(FDBFuture FDBDatabase FDBTransaction FDBTenant);

pub type fdb_error_t = c_int;
pub type fdb_bool_t = c_int;
pub type FDBCallback =
    Option<unsafe extern "C" fn(future: *mut FDBFuture, callback_parameter: *mut c_void)>;

#[repr(C, packed(4))]
#[derive(Debug, Copy, Clone)]
pub struct FDBKey {
    pub key: *const u8,
    pub key_length: c_int,
}

#[repr(C, packed(4))]
#[derive(Debug, Copy, Clone)]
pub struct FDBKeyValue {
    pub key: *const u8,
    pub key_length: c_int,
    pub value: *const u8,
    pub value_length: c_int,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FDBKeySelector {
    pub key: FDBKey,
    pub orEqual: fdb_bool_t,
    pub offset: c_int,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FDBGetRangeReqAndResult {
    pub begin: FDBKeySelector,
    pub end: FDBKeySelector,
    pub data: *mut FDBKeyValue,
    pub m_size: c_int,
    pub m_capacity: c_int,
}

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FDBMappedKeyValue {
    pub key: FDBKey,
    pub value: FDBKey,
    pub getRange: FDBGetRangeReqAndResult,
    pub buffer: [c_uchar; 32],
}

// The header gives these sizes for 64-bit machines.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<FDBKey>() == 12);
    assert!(size_of::<FDBKeyValue>() == 24);
    assert!(size_of::<FDBKeySelector>() == 20);
    assert!(size_of::<FDBMappedKeyValue>() == 112);
};
