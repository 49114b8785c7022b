//! `/admin/delete_topics/<topic>`: a topic that the controller is to delete. Only its name matters.

pub const ROOT: &str = "/admin/delete_topics";

pub fn path(topic: &str) -> String {
    format!("{ROOT}/{topic}")
}
