//! Memory and descriptors shared with Python. Unsafe code lives here.
#![allow(unsafe_code)]

mod lending;

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::panic::RefUnwindSafe;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use arrow_buffer::{ArrowNativeType, Buffer};
use pyo3::buffer::{Element, PyUntypedBuffer};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use rustix::io::Errno;

pub(super) use lending::Lock;

use super::error::exception;
use crate::error::Error;

/// One column of a result, read through the buffer protocol without a copy.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Column {
    items: Buffer,
    item_bytes: usize,
    /// The struct module's code of an item.
    code: &'static CStr,
    /// What views point to: their length, and the way from item to item.
    shape: [isize; 1],
    strides: [isize; 1],
}

/// A number that a column can hold.
pub(super) trait Item: ArrowNativeType {
    /// The struct module's code.
    const CODE: &'static CStr;
}

impl Item for u64 {
    const CODE: &'static CStr = c"Q";
}

impl Item for u32 {
    const CODE: &'static CStr = c"I";
}

impl Item for u8 {
    const CODE: &'static CStr = c"B";
}

impl Column {
    /// A column of what `items` holds, shared with it.
    pub fn new<T: Item>(items: impl Into<Buffer>) -> Self {
        let items = items.into();
        let item_bytes = size_of::<T>();
        // No allocation is longer than isize.
        let signed = |number: usize| isize::try_from(number).unwrap_or(isize::MAX);
        Self {
            shape: [signed(items.len() / item_bytes)],
            strides: [signed(item_bytes)],
            items,
            item_bytes,
            code: T::CODE,
        }
    }

    /// A column that takes `items` over.
    pub fn of<T: Item>(items: Vec<T>) -> Self {
        Self::new::<T>(Buffer::from_vec(items))
    }
}

#[pymethods]
impl Column {
    #[getter]
    fn format(&self) -> String {
        self.code.to_string_lossy().into_owned()
    }

    fn __len__(&self) -> usize {
        self.items.len() / self.item_bytes
    }

    /// # Safety
    /// `view` comes from CPython, which asks for a buffer to be described there.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        if flags & ffi::PyBUF_WRITABLE != 0 {
            return Err(PyBufferError::new_err("a column cannot be written"));
        }
        let column = slf.get();
        let asked = |flag: c_int| flags & flag == flag;
        let pointer = |wanted: bool, found: *const isize| {
            if wanted {
                found.cast_mut()
            } else {
                ptr::null_mut()
            }
        };
        let filled = ffi::Py_buffer {
            buf: column.items.as_ptr().cast_mut().cast::<c_void>(),
            obj: ptr::null_mut(),
            len: column.shape[0] * column.strides[0],
            itemsize: column.strides[0],
            readonly: 1,
            ndim: 1,
            format: if asked(ffi::PyBUF_FORMAT) {
                column.code.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            },
            shape: pointer(asked(ffi::PyBUF_ND), column.shape.as_ptr()),
            strides: pointer(asked(ffi::PyBUF_STRIDES), column.strides.as_ptr()),
            suboffsets: ptr::null_mut(),
            internal: ptr::null_mut(),
        };
        // SAFETY: `view` is CPython's, not null, and meant to be overwritten. What it
        // points to belongs to `slf`: the class is frozen, so that neither the items
        // nor shape and strides move or change while the view's reference holds it.
        unsafe {
            view.write(filled);
            (*view).obj = slf.into_any().into_ptr();
        }
        Ok(())
    }
}

/// A part of what `owner` holds, without a copy.
pub(super) fn part_of<O, T>(owner: &Arc<O>, part: impl FnOnce(&O) -> &[T]) -> Buffer
where
    O: RefUnwindSafe + Send + Sync + 'static,
    T: ArrowNativeType,
{
    let items = part(owner);
    let bytes = size_of_val(items);
    let keep: Arc<O> = Arc::clone(owner);
    // SAFETY: `part` borrows from `owner`, which the buffer keeps alive; as long as
    // it is shared nobody can take it mutably, and plain numbers have no inside to change.
    unsafe { Buffer::from_custom_allocation(NonNull::from(items).cast(), bytes, keep) }
}

/// A caller's writable bytes, to be filled while detached. The export keeps their
/// owner from freeing or moving them.
pub(super) struct WritableBytes(PyUntypedBuffer);

impl WritableBytes {
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let export = PyUntypedBuffer::get(object)?;
        if export.readonly() {
            return Err(PyBufferError::new_err("the buffer cannot be written"));
        }
        if !export.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not contiguous"));
        }
        Ok(Self(export))
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let Some(start) = NonNull::new(self.0.buf_ptr().cast::<u8>()) else {
            return &mut [];
        };
        // SAFETY: the export is writable, contiguous and that long, and it outlives
        // the slice. As with every `readinto`, it is the caller's part not to use the
        // bytes in another thread before the call returns.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.0.len_bytes()) }
    }
}

/// A caller's bytes, to be read while detached. The export keeps their owner from
/// freeing or moving them.
pub(super) struct ReadableBytes(PyUntypedBuffer);

impl ReadableBytes {
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let export = PyUntypedBuffer::get(object)?;
        if !export.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not contiguous"));
        }
        Ok(Self(export))
    }

    pub fn bytes(&self) -> &[u8] {
        let Some(start) = NonNull::new(self.0.buf_ptr().cast::<u8>()) else {
            return &[];
        };
        // SAFETY: the export is contiguous and that long, and it outlives the slice. As
        // with every `write`, it is the caller's part not to change the bytes in another
        // thread before the call returns.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.0.len_bytes()) }
    }
}

/// A copy of a buffer of 64-bit numbers, which Python may change at any time.
pub(super) fn copy_of_numbers(object: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let export = PyUntypedBuffer::get(object)?;
    let numbers = export.item_size() == size_of::<u64>();
    if !numbers || !u64::is_compatible_format(export.format()) || !has_native_order(&export) {
        let text = "the buffer does not hold unsigned 64-bit numbers";
        return Err(PyBufferError::new_err(text));
    }
    if export.is_c_contiguous() {
        return Ok(object.py().detach(|| copy_of_items(&export)));
    }
    export.as_typed::<u64>()?.to_vec(object.py())
}

/// Whether items have this machine's order of bytes, which a format may contradict.
fn has_native_order(export: &PyUntypedBuffer) -> bool {
    match export.format().to_bytes().first() {
        Some(b'>' | b'!') => cfg!(target_endian = "big"),
        Some(b'<') => cfg!(target_endian = "little"),
        _ => true,
    }
}

/// A copy of a buffer of 64-bit integers; signed ones have to fit, which the second
/// answer, the first negative one, tells. `None`: the buffer holds something else.
pub(super) fn copy_of_integers(
    object: &Bound<'_, PyAny>,
) -> PyResult<Option<(Vec<u64>, Option<i64>)>> {
    let export = PyUntypedBuffer::get(object)?;
    let words = export.item_size() == size_of::<u64>() && export.dimensions() == 1;
    let unsigned = u64::is_compatible_format(export.format());
    let integers = unsigned || i64::is_compatible_format(export.format());
    if !words || !integers || !has_native_order(&export) {
        return Ok(None);
    }
    let items = if export.is_c_contiguous() {
        object.py().detach(|| copy_of_items(&export))
    } else if unsigned {
        export.as_typed::<u64>()?.to_vec(object.py())?
    } else {
        let items = export.as_typed::<i64>()?.to_vec(object.py())?;
        items.into_iter().map(i64::cast_unsigned).collect()
    };
    let negative = object.py().detach(|| {
        let mut signed = items.iter().map(|item| item.cast_signed());
        if unsigned {
            None
        } else {
            signed.find(|item| *item < 0)
        }
    });
    Ok(Some((items, negative)))
}

/// A caller's column of 64-bit integers, copied part by part as it is used: so that
/// a large one is not there twice.
pub(super) enum Numbers {
    /// A buffer of contiguous words.
    Lent(PyUntypedBuffer),
    Own(Vec<u64>),
}

impl Numbers {
    /// `None`: the buffer holds something else.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let export = PyUntypedBuffer::get(object)?;
        let words = export.item_size() == size_of::<u64>() && export.dimensions() == 1;
        let unsigned = u64::is_compatible_format(export.format());
        if words && unsigned && has_native_order(&export) && export.is_c_contiguous() {
            return Ok(Some(Self::Lent(export)));
        }
        Ok(match copy_of_integers(object)? {
            Some((items, None)) => Some(Self::Own(items)),
            Some((_, Some(negative))) => {
                let text = format!("blocks have no sign: {negative} is there");
                return Err(exception(object.py(), Error::usage(text)));
            }
            None => None,
        })
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Lent(export) => export.item_count(),
            Self::Own(items) => items.len(),
        }
    }

    /// Copies a part of it, which lies within.
    pub fn copy_to(&self, part: Range<usize>, out: &mut Vec<u64>) {
        out.clear();
        match self {
            Self::Own(items) => out.extend_from_slice(items.get(part).unwrap_or_default()),
            Self::Lent(export) => {
                let end = part.end.min(export.item_count());
                let count = end.saturating_sub(part.start);
                out.resize(count, 0);
                if count > 0 {
                    // SAFETY: the export vouches for `end` items of 8 bytes, and keeps
                    // them. They are copied as raw memory: somebody who writes them now
                    // can only make them wrong.
                    unsafe {
                        let from = export.buf_ptr().cast::<u64>().add(part.start);
                        let bytes = count * size_of::<u64>();
                        ptr::copy_nonoverlapping(from.cast::<u8>(), out.as_mut_ptr().cast(), bytes);
                    }
                }
            }
        }
    }
}

/// A copy of the raw bytes of a buffer of whatever items.
pub(super) fn copy_of_bytes(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let export = PyUntypedBuffer::get(object)?;
    if export.is_c_contiguous() {
        return Ok(object.py().detach(|| {
            let mut copy = vec![0_u8; export.len_bytes()];
            if !copy.is_empty() {
                let from = export.buf_ptr().cast::<u8>();
                // SAFETY: the export vouches for that many bytes, and keeps them. Somebody
                // who writes them now can only make them wrong.
                unsafe { ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), copy.len()) };
            }
            copy
        }));
    }
    export.as_typed::<u8>()?.to_vec(object.py())
}

fn copy_of_items(export: &PyUntypedBuffer) -> Vec<u64> {
    let mut copy = vec![0_u64; export.item_count()];
    let into = copy.as_mut_ptr().cast::<u8>();
    if !copy.is_empty() {
        // SAFETY: the export vouches for that many items of 8 bytes. They are copied
        // as raw memory, so that they need no alignment, and somebody who writes
        // them now can only make them wrong.
        unsafe { ptr::copy_nonoverlapping(export.buf_ptr().cast(), into, size_of_val(&*copy)) };
    }
    copy
}

/// An own descriptor of what `fd` is open on, which closing `fd` cannot take away.
pub(super) fn duplicate(py: Python<'_>, fd: RawFd) -> PyResult<OwnedFd> {
    let failed = |source| exception(py, Error::io("<output>", None, source));
    if fd < 0 {
        return Err(failed(Errno::BADF.into()));
    }
    // SAFETY: borrowed for one system call only, which answers EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(failed)
}
