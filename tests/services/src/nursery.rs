use std::{
    io,
    process::{Child, Command},
    sync::mpsc,
    thread,
};

/// Starts processes from a thread that lives as long as this does. The kernel's "kill it when its parent is gone" means
/// the thread that started it, and those of a test come and go.
#[derive(Debug)]
pub(crate) struct Nursery(mpsc::Sender<(Command, mpsc::Sender<io::Result<Child>>)>);

impl Nursery {
    pub(crate) fn open() -> Self {
        let (sender, requests) = mpsc::channel::<(Command, mpsc::Sender<io::Result<Child>>)>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                answer.send(command.spawn()).ok();
            }
        });
        Self(sender)
    }

    pub(crate) fn start(&self, command: Command) -> Child {
        let (answer, started) = mpsc::channel();
        self.0.send((command, answer)).expect("the thread ends with us");
        let started = started.recv().expect("the thread answers");
        started.unwrap_or_else(|error| panic!("cannot run setpriv: {error}"))
    }
}
