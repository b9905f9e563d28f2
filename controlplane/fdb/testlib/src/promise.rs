//! The core of a future of the C API: set once, read many times, one callback.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foundationdb_sys::{FDBCallback, FDBFuture, FDBKeyValue};

/// What a future holds.
#[derive(Debug)]
pub(crate) enum Answer {
    Nothing,
    Number(i64),
    Key(Bytes),
    Value(Option<Bytes>),
    Rows(Page),
}

/// Rows with the array that points at them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) array: Vec<FDBKeyValue>,
    pub(crate) more: bool,
    _rows: Vec<(Bytes, Bytes)>,
}

impl Page {
    pub(crate) fn new(rows: Vec<(Bytes, Bytes)>, more: bool) -> Self {
        let array = rows
            .iter()
            .map(|(key, value)| FDBKeyValue {
                key: key.as_ptr(),
                key_length: length(key),
                value: value.as_ptr(),
                value_length: length(value),
            })
            .collect();
        Self {
            array,
            more,
            _rows: rows,
        }
    }
}

pub(crate) fn length(bytes: &[u8]) -> c_int {
    c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)
}

/// A callback with its parameter and the handle it is called with.
struct Callback {
    function: unsafe extern "C" fn(*mut FDBFuture, *mut c_void),
    future: usize,
    parameter: usize,
}

#[derive(Default)]
struct State {
    outcome: Option<Arc<Outcome>>,
    callback: Option<Callback>,
}

pub(crate) type Outcome = Result<Answer, i32>;

/// Clones are the same promise.
#[derive(Clone, Default)]
pub(crate) struct Promise(Arc<Mutex<State>>);

#[expect(unsafe_code, reason = "calls the callback as the C API promises")]
impl Callback {
    fn call(self) {
        // SAFETY: whoever set it promised that it can be called once, from any
        // thread, with this parameter.
        unsafe { (self.function)(self.future as *mut FDBFuture, self.parameter as *mut c_void) }
    }
}

#[expect(
    unsafe_code,
    reason = "an outcome is read by any thread and changed by none"
)]
// SAFETY: the pointers in it point into the rows beside them, which never change.
unsafe impl Send for Page {}

#[expect(
    unsafe_code,
    reason = "an outcome is read by any thread and changed by none"
)]
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Promise {
    pub(crate) fn ready(outcome: Outcome) -> Self {
        let promise = Self::default();
        promise.set(outcome);
        promise
    }

    /// The first outcome counts.
    pub(crate) fn set(&self, outcome: Outcome) {
        let callback = {
            let mut state = self.state();
            if state.outcome.is_some() {
                return;
            }
            state.outcome = Some(Arc::new(outcome));
            state.callback.take()
        };
        if let Some(callback) = callback {
            callback.call();
        }
    }

    pub(crate) fn outcome(&self) -> Option<Arc<Outcome>> {
        self.state().outcome.clone()
    }

    /// Nobody else has it.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Called at once when the outcome is there.
    pub(crate) fn set_callback(
        &self,
        function: FDBCallback,
        future: *mut FDBFuture,
        parameter: *mut c_void,
    ) {
        let Some(function) = function else { return };
        let callback = Callback {
            function,
            future: future as usize,
            parameter: parameter as usize,
        };
        let mut state = self.state();
        if state.outcome.is_none() {
            state.callback = Some(callback);
            return;
        }
        drop(state);
        callback.call();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
