//! A container: an address space of the IOMMU, and what is in it.

use crate::error::VfioError;
use crate::iova::{Iovas, parse};
use crate::sys;
use palisade_dma::DmaRange;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use vfio_bindings::bindings::vfio;

/// Words of the answer to VFIO_IOMMU_GET_INFO: a header and room for many ranges.
const INFO_WORDS: usize = 512;

/// The memory of one device.
pub(crate) struct Container {
    file: File,
    iovas: Iovas,
    maps: Vec<(u64, DmaRange)>,
}

impl Container {
    /// A container that `group` is put into; only a group makes an IOMMU of it.
    pub(crate) fn new(group: BorrowedFd<'_>, number: u32) -> Result<Self, VfioError> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/vfio/vfio");
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VfioError::NoVfio,
            _ => VfioError::Group { group: number, source },
        })?;
        let fd = file.as_fd();
        let has =
            |extension: u32| sys::simple(fd, sys::CHECK_EXTENSION, extension.into()).is_ok_and(|n| n > 0);
        let kind = [vfio::VFIO_TYPE1v2_IOMMU, vfio::VFIO_TYPE1_IOMMU].into_iter().find(|&kind| has(kind));
        let version = sys::simple(fd, sys::GET_API_VERSION, 0).ok();
        let (Some(kind), Some(0)) = (kind, version) else { return Err(VfioError::Version) };
        let refused = |source| VfioError::Group { group: number, source };
        sys::set_container(group, fd).map_err(refused)?;
        sys::simple(fd, sys::SET_IOMMU, kind.into()).map_err(refused)?;
        let mut info = [0; INFO_WORDS];
        let allowed = match sys::fill(fd, sys::IOMMU_GET_INFO, &mut info) {
            Ok(()) => parse(&info),
            Err(_) => Vec::new(), // an old kernel, which says nothing of ranges
        };
        Ok(Self { file, iovas: Iovas::new(allowed), maps: Vec::new() })
    }

    /// Gives a range to the device; where it finds it.
    pub(crate) fn map(&mut self, address: &str, range: DmaRange) -> Result<u64, VfioError> {
        let bytes = range.bytes();
        let room = self.iovas.take(bytes as u64);
        let iova = room.ok_or_else(|| VfioError::NoRoom { address: address.to_owned(), bytes })?;
        let mut map = vfio::vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio::vfio_iommu_type1_dma_map>() as u32,
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: range.addr() as u64,
            iova,
            size: bytes as u64,
        };
        // The kernel pins the pages: the range must stay mapped here until it is unmapped there, which is why
        // it is kept.
        sys::with(self.file.as_fd(), sys::IOMMU_MAP_DMA, &mut map).map_err(|source| VfioError::Map {
            address: address.to_owned(),
            bytes,
            source,
        })?;
        self.maps.push((iova, range));
        Ok(iova)
    }

    /// Takes everything from the device; false when the kernel refused some of it, which is kept then.
    pub(crate) fn unmap_all(&mut self) -> bool {
        let file = &self.file;
        self.maps.retain(|(iova, range)| {
            let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
                argsz: size_of::<vfio::vfio_iommu_type1_dma_unmap>() as u32,
                iova: *iova,
                size: range.bytes() as u64,
                ..Default::default()
            };
            sys::with(file.as_fd(), sys::IOMMU_UNMAP_DMA, &mut unmap).is_err() || unmap.size == 0
        });
        self.maps.is_empty()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.unmap_all() {
            // The device may still reach these ranges: they stay.
            std::mem::forget(std::mem::take(&mut self.maps));
        }
    }
}
