//! Finds the system's ISA-L.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Err(error) = pkg_config::Config::new().atleast_version("2.30").probe("libisal") {
        panic!("libisal (ISA-L) is missing: run `make deps`, or install libisal-dev: {error}");
    }
}
