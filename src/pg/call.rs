//! Calls of SQL functions: how they enter, what they are given, and what they return.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use pgrx::pg_sys::{self, Datum, Oid};

use super::datum::SqlType;
use super::ffi::{HeapTupleHeaderGetDatum, IsInParallelMode, heap_form_tuple, tuplestore_putvalues};
use super::report::{ERROR_MEMORY, IntoReport, require_memory};

/// Exports functions to PostgreSQL (fmgr.h, version-1 calling convention): `name(types of its arguments) => body;`.
///
/// The body is given the call, and then the arguments as a tuple of options, NULL as `None`. The types are all that Rust
/// knows of the function's declaration in sql/. A test compares `SIGNATURES` with the catalog.
macro_rules! sql_functions {
    ($($name:ident($($argument:ident),*) => $body:path;)*) => {
        $(
            const _: () = {
                #[unsafe(export_name = stringify!($name))]
                unsafe extern "C-unwind" fn function(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
                    // SAFETY: PostgreSQL passes its fcinfo, and this frame owns nothing. The types are the declared ones.
                    unsafe {
                        $crate::pg::enter(fcinfo, |call| {
                            let mut _arguments = call.arguments();
                            $body(call, ($(_arguments.next::<$argument>(),)*))
                        })
                    }
                }

                #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
                extern "C" fn info() -> &'static pgrx::pg_sys::Pg_finfo_record {
                    &pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
                }
            };
        )*

        /// The name of each function, and the types of its arguments.
        const SIGNATURES: &[(&str, &[pgrx::pg_sys::Oid])] =
            &[$((stringify!($name), &[$(<$argument as $crate::pg::SqlType>::OID),*])),*];
    };
}
pub(crate) use sql_functions;

/// A [`RowType`]: `row_type!(id Uuid, scope Text)`.
macro_rules! row_type {
    ($($name:ident $type:ident),*) => {
        $crate::pg::RowType::new(const { &[$((
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
            <$type as $crate::pg::SqlType>::OID,
        )),*] })
    };
}
pub(crate) use row_type;

/// A function was called, or is to be called, in a parallel operation in which it may not run.
pub struct InParallelOperation;

/// Runs the body of an SQL function, and raises its error.
///
/// # Safety
/// `fcinfo` is the one that PostgreSQL passed, and the calling frame owns nothing.
pub unsafe fn enter<E: IntoReport + From<InParallelOperation>>(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl FnOnce(&Call<'_>) -> Result<Option<Datum>, E>,
) -> Datum {
    // SAFETY: the guard is called right under PostgreSQL's frame, and turns a panic into an ERROR. A report owns nothing,
    // so that it can be thrown from here.
    unsafe {
        require_memory(ERROR_MEMORY);
        let run = || {
            let call = Call { fcinfo, memory: PhantomData };
            let result = if call.is_misplaced() { Err(InParallelOperation.into()) } else { body(&call) };
            result.map(|value| call.finish(value)).map_err(IntoReport::into_report)
        };
        match pgrx_extern_c_guard(std::panic::AssertUnwindSafe(run)) {
            Ok(datum) => datum,
            Err(report) => report.throw(),
        }
    }
}

/// One call of an SQL function. `'call` is the life of the memory context that is current in it.
pub struct Call<'call> {
    fcinfo: pg_sys::FunctionCallInfo,
    memory: PhantomData<&'call ()>,
}

impl<'call> Call<'call> {
    /// The arguments, from the first.
    pub fn arguments(&self) -> Arguments<'call> {
        Arguments { fcinfo: self.fcinfo, index: 0, memory: PhantomData }
    }

    /// Argument `index`, from 0, as the value that it is. `None` for NULL.
    pub fn datum(&self, index: usize) -> Option<Datum> {
        // SAFETY: fcinfo is valid for the call, and has as many arguments as SQL declares.
        unsafe { pgrx::fcinfo::pg_getarg_datum(self.fcinfo, index) }
    }

    /// Whether this is a parallel operation in which the function may not run. PostgreSQL sees to that, unless a function around
    /// it is declared as what it is not.
    fn is_misplaced(&self) -> bool {
        // SAFETY: reads variables of the process (access/parallel.h), and the catalog, within a transaction.
        unsafe {
            IsInParallelMode()
                && match pg_sys::func_parallel(self.function()) as u8 {
                    pg_sys::PROPARALLEL_SAFE => false,
                    pg_sys::PROPARALLEL_RESTRICTED => pg_sys::ParallelWorkerNumber >= 0,
                    _ => true,
                }
        }
    }

    fn finish(&self, value: Option<Datum>) -> Datum {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*self.fcinfo).isnull = value.is_none() };
        value.unwrap_or(Datum::from(0))
    }

    /// The node that describes in which context the function is called, or NULL.
    pub(super) fn context(&self) -> *mut pg_sys::Node {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*self.fcinfo).context }
    }

    /// The function that is called.
    pub(super) fn function(&self) -> Oid {
        // SAFETY: fcinfo is valid for the call, and PostgreSQL calls a function of SQL with its description.
        unsafe { (*(*self.fcinfo).flinfo).fn_oid }
    }

    /// Returns a set of rows. `fill` calls its argument once a row.
    pub fn rows(&self, row_type: &RowType, fill: impl FnOnce(&mut dyn FnMut(&[Option<Datum>]))) {
        // SAFETY: SQL declares the function as returning a set, for which the executor passes a ReturnSetInfo. Both of its
        // callers of such functions allow a materialized result.
        unsafe {
            let info = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let previous = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
            // The rows may hold tokens, which are in memory anyway. Whatever work_mem says, they do not go to disk.
            let store = pg_sys::tuplestore_begin_heap(true, false, c_int::MAX);
            // The executor frees the description with the store (executor/execSRF.c), so this is a copy.
            let description = pg_sys::CreateTupleDescCopy(row_type.description());
            pg_sys::MemoryContextSwitchTo(previous);
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = description;
            fill(&mut |columns| {
                let (mut values, mut nulls) = split(columns);
                tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            });
        }
    }
}

/// The arguments of a call that have not been read yet.
pub struct Arguments<'call> {
    fcinfo: pg_sys::FunctionCallInfo,
    index: usize,
    memory: PhantomData<&'call ()>,
}

impl<'call> Arguments<'call> {
    /// The next argument. `None` for NULL.
    ///
    /// # Safety
    /// SQL declares it with this type.
    pub unsafe fn next<T: SqlType>(&mut self) -> Option<T::Value<'call>> {
        // SAFETY: by the caller's promise; fcinfo and the values outlive the call.
        unsafe {
            let datum = pgrx::fcinfo::pg_getarg_datum(self.fcinfo, self.index);
            self.index += 1;
            datum.map(|datum| T::read(datum))
        }
    }
}

/// A composite type that functions return. Its description is made once a process and kept.
pub struct RowType {
    columns: &'static [(&'static CStr, Oid)],
    description: AtomicPtr<pg_sys::TupleDescData>,
}

impl RowType {
    /// A type of these columns, at most [`COLUMNS_MAX`].
    pub const fn new(columns: &'static [(&'static CStr, Oid)]) -> Self {
        Self { columns, description: AtomicPtr::new(ptr::null_mut()) }
    }

    /// A value of the type, of as many columns.
    pub fn form(&self, columns: &[Option<Datum>]) -> Datum {
        debug_assert_eq!(columns.len(), self.columns.len());
        let (mut values, mut nulls) = split(columns);
        let description = self.description();
        // SAFETY: the arrays hold at least as many columns as the description, of its types.
        unsafe {
            pg_guard_ffi_boundary(|| {
                HeapTupleHeaderGetDatum((*heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr())).t_data)
            })
        }
    }

    fn description(&self) -> pg_sys::TupleDesc {
        let known = self.description.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the description is made in a context that is never reset. Blessing registers it in this process.
        let made = unsafe {
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let description = pg_sys::CreateTemplateTupleDesc(self.columns.len() as c_int);
            for (index, (name, oid)) in self.columns.iter().enumerate() {
                let number = index as pg_sys::AttrNumber + 1;
                pg_sys::TupleDescInitEntry(description, number, name.as_ptr(), *oid, -1, 0);
            }
            let description = pg_sys::BlessTupleDesc(description);
            pg_sys::MemoryContextSwitchTo(previous);
            description
        };
        self.description.store(made, Ordering::Relaxed);
        made
    }
}

/// The most columns of a [`RowType`], and parameters of a statement.
pub(super) const COLUMNS_MAX: usize = 9;

/// `columns` as values and null flags.
pub(super) fn split(columns: &[Option<Datum>]) -> ([Datum; COLUMNS_MAX], [bool; COLUMNS_MAX]) {
    let (mut values, mut nulls) = ([Datum::from(0); COLUMNS_MAX], [true; COLUMNS_MAX]);
    for (index, column) in columns.iter().enumerate() {
        if let Some(datum) = column {
            (values[index], nulls[index]) = (*datum, false);
        }
    }
    (values, nulls)
}
