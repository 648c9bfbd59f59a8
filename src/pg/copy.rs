//! Storing many rows at once, as COPY FROM does: the rows of a page share a record of WAL.
//!
//! Lives here: COPY's C interface (commands/copy.h), used the way the first copy of a subscribed table does
//! (replication/logical/tablesync.c), and the rows in COPY's binary format. May not come in here: what is in the rows.
//!
//! Triggers fire, constraints are checked and columns that are not given get their defaults, all by COPY. What it leaves
//! out, [`suits`] asks for.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use pgrx::pg_sys::{self, Oid};

use super::{PG_EPOCH, TableGone, as_owner, end_command, open};

/// The most bytes of a row. COPY keeps a thousand rows in memory, whatever their size (`MAX_BUFFERED_TUPLES` of
/// commands/copyfrom.c).
const ROW_MAX: usize = 4096;

/// What the binary format starts with: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A row, written one field after the other in the order of the columns.
pub struct Row {
    bytes: [u8; ROW_MAX],
    /// How many there are; more than fit, if some were left out.
    length: usize,
}

impl Row {
    /// A row without fields.
    pub fn new() -> Self {
        Self { bytes: [0; ROW_MAX], length: 0 }
    }

    /// Whether the row is short enough to be stored, with the number of its fields before it.
    pub fn fits(&self) -> bool {
        self.length <= ROW_MAX - size_of::<i16>()
    }

    /// A uuid.
    pub fn uuid(&mut self, value: &[u8; 16]) {
        self.bytes(value);
    }

    /// A text, in the database's encoding, or a bytea.
    pub fn bytes(&mut self, value: &[u8]) {
        // No field that fits is longer than 32 bits can say.
        self.put(&(value.len() as i32).to_be_bytes());
        self.put(value);
    }

    /// A timestamptz, of Unix microseconds.
    pub fn timestamptz(&mut self, unix_micros: i64) {
        self.bytes(&unix_micros.saturating_sub(PG_EPOCH).to_be_bytes());
    }

    /// An integer.
    pub fn int4(&mut self, value: Option<i32>) {
        match value {
            Some(value) => self.bytes(&value.to_be_bytes()),
            None => self.null(),
        }
    }

    /// NULL, of any type.
    pub fn null(&mut self) {
        self.put(&(-1_i32).to_be_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
        self.length = self.length.saturating_add(bytes.len());
    }
}

/// Whether [`insert`] into the first `columns` columns does to table `relation` what INSERT would. COPY applies none of its
/// rules, takes texts for ones in the client's encoding, and does not ask a domain whether it takes the NULL of a column that
/// is not given.
pub fn suits(relation: Oid, columns: usize) -> Result<bool, TableGone> {
    // SAFETY: the relation is open while its cached description is read; the encodings are variables of the backend. The
    // function of SPI that is called needs no connection, and answers InvalidOid for a column that was dropped.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = open(relation, lock)?;
        let has_rules = !(*table).rd_rules.is_null();
        let description = (*table).rd_att;
        let of_domain =
            |number| pg_sys::get_typtype(pg_sys::SPI_gettypeid(description, number)) as u8 == pg_sys::TYPTYPE_DOMAIN;
        let has_domains = (columns as c_int + 1..=(*description).natts).any(of_domain);
        pg_sys::relation_close(table, lock);
        let encoding = pg_sys::pg_get_client_encoding();
        // Nothing is converted for a client that says SQL_ASCII (utils/mb/mbutils.c, pg_any_to_server).
        let converts = encoding != pg_sys::GetDatabaseEncoding() && encoding != pg_sys::pg_enc::PG_SQL_ASCII as c_int;
        Ok(!has_rules && !has_domains && !converts)
    }
}

/// Stores rows into the first `columns` columns of table `relation`, as its owner and without its row-level security.
/// `next` writes a row, or answers false when there is none left. Each must fit, and the table suit.
///
/// An error leaves by longjmp through the caller's frames: no caller may own a destructor across this call, nor may
/// `next`.
pub fn insert(relation: Oid, columns: usize, next: &mut dyn FnMut(&mut Row) -> bool) -> Result<(), TableGone> {
    let mut source = Source { columns: columns as i16, next, row: Row::new(), given: 0, is_at_end: false };
    source.row.put(HEADER);
    // SAFETY: the table is open until it is closed; the snapshot is popped here or, after an error, by the abort of the
    // transaction or savepoint. Lists and names are palloc'd. The order is SPI's: what came before is seen by defaults
    // and triggers, and what is stored here by what follows.
    unsafe {
        as_owner(relation, || {
            let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
            let table = pg_sys::relation_open(relation, no_lock);
            let (names, options) = (first_columns(table, columns), binary_format());
            let parse_state = pg_sys::make_parsestate(ptr::null_mut());
            let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
            pg_sys::addRangeTableEntryForRelation(parse_state, table, lock as c_int, ptr::null_mut(), false, false);
            end_command();
            pg_sys::PushCopiedSnapshot(pg_sys::GetLatestSnapshot());
            pg_sys::UpdateActiveSnapshotCommandId();
            copy(parse_state, table, names, options, &mut source);
            pg_sys::PopActiveSnapshot();
            pg_sys::relation_close(table, no_lock);
            end_command();
        })
    }
}

/// Names of the first `count` columns, which are not dropped.
///
/// # Safety
/// `table` is open, and has as many columns.
unsafe fn first_columns(table: pg_sys::Relation, count: usize) -> *mut pg_sys::List {
    // SAFETY: by the caller's promise; SPI_fname answers a palloc'd name, and needs no connection.
    unsafe {
        (1..=count as c_int).fold(ptr::null_mut(), |names, number| {
            let name = pg_sys::SPI_fname((*table).rd_att, number);
            pg_sys::lappend(names, pg_sys::makeString(name).cast())
        })
    }
}

/// The options of COPY … (FORMAT binary).
fn binary_format() -> *mut pg_sys::List {
    // SAFETY: nodes and lists are palloc'd; nobody writes to the names in them.
    unsafe {
        let format = pg_sys::makeString(c"binary".as_ptr().cast_mut()).cast();
        let option = pg_sys::makeDefElem(c"format".as_ptr().cast_mut(), format, -1);
        pg_sys::lappend(ptr::null_mut(), option.cast())
    }
}

// Declared here, and not taken from pgrx, so that the error of a user's trigger keeps its SQLSTATE, as with
// `SPI_execute_snapshot`.
unsafe extern "C-unwind" {
    fn BeginCopyFrom(
        parse_state: *mut pg_sys::ParseState,
        table: pg_sys::Relation,
        #[cfg(not(feature = "pg13"))] condition: *mut pg_sys::Node,
        filename: *const c_char,
        is_program: bool,
        source: pg_sys::copy_data_source_cb,
        columns: *mut pg_sys::List,
        options: *mut pg_sys::List,
    ) -> *mut c_void;
    fn CopyFrom(state: *mut c_void) -> u64;
    fn EndCopyFrom(state: *mut c_void);
}

/// Runs COPY over what `source` gives.
///
/// # Safety
/// As of [`insert`]; the table is open, and a snapshot is active.
unsafe fn copy(
    parse_state: *mut pg_sys::ParseState,
    table: pg_sys::Relation,
    columns: *mut pg_sys::List,
    options: *mut pg_sys::List,
    source: &mut Source<'_>,
) {
    // SAFETY: by the caller's promise. The mark is on the stack of error contexts while this frame lives: an error that
    // leaves it puts the stack back with itself, and none leaves it as a panic, since none of the three calls is guarded.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let mut mark =
            pg_sys::ErrorContextCallback { previous, callback: Some(MARK), arg: ptr::from_mut(source).cast() };
        pg_sys::error_context_stack = &raw mut mark;
        let (no_file, is_program) = (ptr::null(), false);
        #[cfg(feature = "pg13")]
        let state = BeginCopyFrom(parse_state, table, no_file, is_program, Some(read), columns, options);
        #[cfg(not(feature = "pg13"))]
        let state =
            BeginCopyFrom(parse_state, table, ptr::null_mut(), no_file, is_program, Some(read), columns, options);
        CopyFrom(state);
        EndCopyFrom(state);
        pg_sys::error_context_stack = previous;
    }
}

/// The rows of a call of [`insert`] as a stream of bytes.
struct Source<'a> {
    columns: i16,
    next: &'a mut dyn FnMut(&mut Row) -> bool,
    /// What is being given: first the header, then each row, at last the trailer.
    row: Row,
    given: usize,
    is_at_end: bool,
}

impl Source<'_> {
    /// Puts at most `room` of the bytes to come at `place`; how many. Fewer only at the end.
    ///
    /// # Safety
    /// There is such room.
    unsafe fn give(&mut self, place: *mut u8, room: usize) -> usize {
        let mut put = 0;
        while put < room && self.has_more() {
            let bytes = &self.row.bytes[self.given..self.row.length];
            let count = bytes.len().min(room - put);
            // SAFETY: by the caller's promise, and `put + count` is at most `room`.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.add(put), count) };
            put += count;
            self.given += count;
        }
        put
    }

    /// Whether there are bytes to come; has the next row written when the one before was given whole.
    fn has_more(&mut self) -> bool {
        if self.given == self.row.length && !self.is_at_end {
            (self.row.length, self.given) = (0, 0);
            self.row.put(&self.columns.to_be_bytes());
            if !(self.next)(&mut self.row) {
                self.is_at_end = true;
                self.row.length = 0;
                self.row.put(&(-1_i16).to_be_bytes());
            }
        }
        self.given < self.row.length
    }
}

/// COPY's data source (commands/copy.h, `copy_data_source_cb`).
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn read(place: *mut c_void, _least: c_int, most: c_int) -> c_int {
    // SAFETY: COPY asks while `copy` runs, gives room for `most` bytes, and has no source give to two at a time.
    unsafe { (*running()).give(place.cast(), most as usize) as c_int }
}

/// The source of the innermost [`copy`] that runs; there may be several, where a trigger of the table stores rows too.
///
/// COPY hands its data source no argument. So the source is found by its mark on the stack of error contexts, which, unlike
/// a static, PostgreSQL puts back itself after an error that somebody has caught.
///
/// # Safety
/// While a [`copy`] runs. Its frame is the source's only other user.
unsafe fn running<'a>() -> *mut Source<'a> {
    // SAFETY: what is on the stack are live frames, and by the caller's promise one of them is a mark.
    unsafe {
        let mut context = pg_sys::error_context_stack;
        while !(*context).callback.is_some_and(|callback| ptr::fn_addr_eq(callback, MARK)) {
            context = (*context).previous;
        }
        (*context).arg.cast()
    }
}

/// What marks are known by. A static, since a function may have more than one address.
static MARK: unsafe extern "C-unwind" fn(*mut c_void) = add_no_context;

/// Called for each error and notice meanwhile, to which it has nothing to add.
unsafe extern "C-unwind" fn add_no_context(_source: *mut c_void) {}
