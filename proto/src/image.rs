//! What an installer's image takes on the machine that boots it, and where it goes there.
//!
//! One arithmetic for both sides: what a check promises, the agent does.

/// What an image takes on the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// The tarball as it is sent.
    pub packed: u64,
    /// Its kernel.
    pub kernel: u64,
    /// The initrd of that kernel.
    pub initrd: u64,
}

/// Where the large files of an image lie until it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// In memory.
    Memory,
    /// On a disk of the system that is left.
    Disk,
}

/// What the agent leaves free where it keeps what is sent to it: 16 MiB.
pub const RESERVE: u64 = 16 << 20;
/// Memory that must be left over where the disk would do as well: somebody else may take some meanwhile.
const SPARE: u64 = 64 << 20;

impl Size {
    /// Returns what the files take: sent, and unpacked.
    pub fn files(self) -> u64 {
        self.packed + self.kernel + self.initrd
    }

    /// Returns what loading it takes: whoever loads it reads the initrd once, and the kernel keeps it once more.
    pub fn loading(self) -> u64 {
        self.kernel + 2 * self.initrd
    }

    /// Returns what it takes where its files are in memory too. The tarball goes before the rest is loaded, if need be.
    pub fn all_in_memory(self) -> u64 {
        self.kernel + self.initrd + self.packed.max(self.loading())
    }

    /// Chooses where the files go: to the disk only where the memory is too short for them, and a disk has the room.
    ///
    /// `memory` is what programs can still have, `disk` what a disk of the old system has free; none where there is no
    /// such disk. What lies there of the image already counts as free.
    pub fn room(self, memory: u64, disk: Option<u64>) -> Room {
        let short = memory < self.all_in_memory().saturating_add(SPARE);
        let fits = disk.is_some_and(|free| free >= self.files().saturating_add(RESERVE));
        match short && fits {
            true => Room::Disk,
            false => Room::Memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// A stock image.
    const STOCK: Size = Size {
        packed: 350 * MIB,
        kernel: 15 * MIB,
        initrd: 335 * MIB,
    };

    #[test]
    fn disk_is_for_those_whose_memory_is_short() {
        let room =
            |memory, disk: Option<u64>| STOCK.room(memory * MIB, disk.map(|disk| disk * MIB));
        assert_eq!(STOCK.all_in_memory(), 1035 * MIB);
        assert_eq!(room(1099, Some(2000)), Room::Memory);
        assert_eq!(room(1098, Some(2000)), Room::Disk);
        // a machine of 1 GB, where loading alone takes 685 MiB
        assert_eq!(room(850, Some(716)), Room::Disk);
        assert_eq!(room(850, Some(715)), Room::Memory);
        assert_eq!(room(850, None), Room::Memory);
    }
}
