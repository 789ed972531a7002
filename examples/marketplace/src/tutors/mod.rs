//! Tutors: their rows, their events, their routes.

mod events;
mod input;
mod model;
mod page;
mod routes;
mod slug;
mod store;

pub(crate) use events::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED};
pub(crate) use model::{Format, Profile};
pub(crate) use routes::routes;
pub(crate) use store::TutorStore;
