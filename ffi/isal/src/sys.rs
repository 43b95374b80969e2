//! The part of ISA-L's ABI that we use (isa-l/erasure_code.h and crc.h, 2.30).

use std::ffi::{c_int, c_uchar, c_uint};

unsafe extern "C" {
    pub(crate) fn crc32_iscsi(buffer: *mut c_uchar, len: c_int, init: c_uint) -> c_uint;
    pub(crate) fn gf_gen_cauchy1_matrix(a: *mut c_uchar, m: c_int, k: c_int);
    pub(crate) fn gf_invert_matrix(input: *mut c_uchar, output: *mut c_uchar, n: c_int) -> c_int;
    pub(crate) fn gf_mul(a: c_uchar, b: c_uchar) -> c_uchar;
    pub(crate) fn ec_init_tables(k: c_int, rows: c_int, a: *mut c_uchar, tables: *mut c_uchar);
    pub(crate) fn ec_encode_data(
        len: c_int,
        k: c_int,
        rows: c_int,
        tables: *mut c_uchar,
        data: *mut *mut c_uchar,
        coding: *mut *mut c_uchar,
    );
}
