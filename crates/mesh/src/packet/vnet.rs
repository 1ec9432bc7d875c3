//! stand-in
#[derive(Debug, Clone, Copy, Default)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
}
impl VnetHeader {
    pub const LEN: usize = 10;
    pub fn parse(_b: &[u8]) -> Option<Self> {
        Some(Self::default())
    }
}
