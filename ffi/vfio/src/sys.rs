//! The system calls: numbers and structures come from `vfio-bindings`, generated from the kernel's header.

use libc::{c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vfio_bindings::bindings::vfio;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`: no size or direction is coded into VFIO's requests.
const fn request(number: u32) -> c_ulong {
    ((vfio::VFIO_TYPE as c_ulong) << 8) | (vfio::VFIO_BASE + number) as c_ulong
}

pub(crate) const GET_API_VERSION: c_ulong = request(0);
pub(crate) const CHECK_EXTENSION: c_ulong = request(1);
pub(crate) const SET_IOMMU: c_ulong = request(2);
pub(crate) const GROUP_GET_STATUS: c_ulong = request(3);
pub(crate) const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
pub(crate) const DEVICE_GET_INFO: c_ulong = request(7);
pub(crate) const DEVICE_GET_REGION_INFO: c_ulong = request(8);
pub(crate) const DEVICE_SET_IRQS: c_ulong = request(10);
pub(crate) const DEVICE_RESET: c_ulong = request(11);
pub(crate) const IOMMU_GET_INFO: c_ulong = request(12);
pub(crate) const IOMMU_MAP_DMA: c_ulong = request(13);
pub(crate) const IOMMU_UNMAP_DMA: c_ulong = request(14);

/// A structure that a request reads or fills.
///
/// # Safety
/// It is plain data, `repr(C)`, laid out as the kernel expects for the requests it is used with, and holds no
/// pointer; its `argsz` (the first field, where the kernel's header has one) says no more bytes than it has.
pub(crate) unsafe trait Argument {}

// SAFETY: generated from the kernel's header, with sizes and offsets asserted there.
unsafe impl Argument for vfio::vfio_group_status {}
// SAFETY: as above.
unsafe impl Argument for vfio::vfio_device_info {}
// SAFETY: as above.
unsafe impl Argument for vfio::vfio_region_info {}
// SAFETY: as above. `vaddr` is not followed by the kernel as a pointer to data of the request.
unsafe impl Argument for vfio::vfio_iommu_type1_dma_map {}
// SAFETY: as above; `data` is empty, and no flag says otherwise.
unsafe impl Argument for vfio::vfio_iommu_type1_dma_unmap {}

/// Makes a request with a number for its argument.
pub(crate) fn simple(fd: BorrowedFd<'_>, request: c_ulong, argument: c_ulong) -> io::Result<c_int> {
    // SAFETY: the requests that callers use (version, extension, IOMMU, reset) take a number, or ignore it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) })
}

/// Makes a request on a structure.
pub(crate) fn with<T: Argument>(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut T) -> io::Result<c_int> {
    // SAFETY: `Argument` promises the layout, and the reference is valid for reads and writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) })
}

/// Puts a group into a container.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let number: c_int = container.as_raw_fd();
    // SAFETY: the request reads one int through the pointer.
    check(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_SET_CONTAINER as _, std::ptr::from_ref(&number)) })?;
    Ok(())
}

/// The descriptor of a device of a group, by its name.
pub(crate) fn device_fd(group: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request reads a string that ends with 0.
    let fd = check(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD as _, name.as_ptr()) })?;
    // SAFETY: the kernel gave this descriptor to us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Fills a buffer whose first word, `argsz`, is set to its length; for structures with a list behind them.
pub(crate) fn fill(fd: BorrowedFd<'_>, request: c_ulong, bytes: &mut [u64]) -> io::Result<()> {
    let len = u32::try_from(size_of_val(bytes)).unwrap_or(0);
    let first = bytes.first_mut().ok_or(io::ErrorKind::InvalidInput)?;
    *first = *first & !0xffff_ffff | u64::from(len);
    // SAFETY: the buffer is aligned to 8 and as long as its `argsz` says; the kernel writes no more than that.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, bytes.as_mut_ptr()) })?;
    Ok(())
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        assert_eq!((GET_API_VERSION, IOMMU_UNMAP_DMA), (0x3b64, 0x3b72));
    }

    #[test]
    fn a_descriptor_that_is_no_container_answers_with_an_error() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert!(simple(file.as_fd(), GET_API_VERSION, 0).is_err());
        let mut status = vfio::vfio_group_status { argsz: 8, flags: 0 };
        assert!(with(file.as_fd(), GROUP_GET_STATUS, &mut status).is_err());
        assert!(device_fd(file.as_fd(), c"0000:00:00.0").is_err());
        assert!(fill(file.as_fd(), IOMMU_GET_INFO, &mut [0; 4]).is_err());
        assert!(fill(file.as_fd(), IOMMU_GET_INFO, &mut []).is_err());
    }
}
