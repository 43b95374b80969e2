//! What an emulated controller is like.

/// Capabilities and what the controller says of itself. Only what tests vary has a field; `patches` reach the rest.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// CAP, as it is read.
    pub cap: u64,
    /// Bytes of the register space.
    pub register_bytes: usize,
    /// The namespaces' numbers; the first one has the medium.
    pub namespaces: Vec<u32>,
    /// Blocks of the namespace.
    pub blocks: u64,
    /// Bytes of a block, as a power of two.
    pub block_shift: u8,
    /// MDTS.
    pub mdts: u8,
    /// A volatile write cache.
    pub volatile_cache: bool,
    /// SGLs for data.
    pub sgl: bool,
    /// Shadow doorbells.
    pub shadow_doorbells: bool,
    /// Bytes of the Identify Controller data that are overwritten at the end: offset and value.
    pub controller_patches: Vec<(usize, u8)>,
    /// The same of Identify Namespace.
    pub namespace_patches: Vec<(usize, u8)>,
    /// The same of the list of active namespaces.
    pub list_patches: Vec<(usize, u8)>,
    /// Steps until CSTS.RDY follows CC.EN.
    pub ready_steps: u32,
    /// A command takes up to so many steps.
    pub delay_steps: u32,
    /// Everything happens at the doorbell, in order, and no step is needed.
    pub eager: bool,
    /// No data are moved and none kept.
    pub null: bool,
    /// Seed of delays and planted faults.
    pub seed: u64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            cap: cap(1023, 4, 0, 0),
            register_bytes: 16 << 10,
            namespaces: vec![1],
            blocks: 4096,
            block_shift: 12,
            mdts: 5,
            volatile_cache: false,
            sgl: false,
            shadow_doorbells: false,
            controller_patches: Vec::new(),
            namespace_patches: Vec::new(),
            list_patches: Vec::new(),
            ready_steps: 2,
            delay_steps: 2,
            eager: false,
            null: false,
            seed: 1,
        }
    }
}

/// CAP of a controller with the NVM command set: MQES, TO in units of 500 ms, DSTRD, MPSMIN (Base 3.1.3.1).
pub fn cap(mqes: u16, to: u8, dstrd: u8, mps_min: u8) -> u64 {
    u64::from(mqes)
        | 1 << 16
        | u64::from(to) << 24
        | u64::from(dstrd) << 32
        | 1 << 37
        | u64::from(mps_min) << 48
        | u64::from(mps_min) << 52
}
