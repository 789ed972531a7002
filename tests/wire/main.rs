//! What stands on the wire: the bytes of every encoder, and programs in another language that read our topics.

mod events;
mod foreign;
mod golden;

/// Hexadecimal digits, for what is no text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}
