//! What they teach, and what they say about it.

use super::dice::Dice;

pub(super) struct Lesson {
    pub(super) subjects: Vec<String>,
    pub(super) headline: String,
    /// With `{years}` of experience still open.
    pub(super) bio: String,
}

struct Subject {
    name: &'static str,
    /// Often taught together with it.
    also: &'static [&'static str],
    headlines: &'static [&'static str],
    about: &'static [&'static str],
}

pub(super) fn lesson(dice: &mut Dice) -> Lesson {
    let subject = dice.one_of(SUBJECTS);
    let mut subjects = vec![subject.name.to_owned()];
    if dice.between(0, 2) > 0 {
        subjects.push(dice.one_of(subject.also).to_owned());
    }
    let bio = format!("{} {} {}", dice.one_of(OPENINGS), dice.one_of(subject.about), dice.one_of(CLOSINGS));
    // Languages keep their capital letter within a sentence.
    let spoken = if LANGUAGES.contains(&subject.name) { subject.name.to_owned() } else { subject.name.to_lowercase() };
    Lesson { subjects, headline: dice.one_of(subject.headlines).to_owned(), bio: bio.replace("{subject}", &spoken) }
}

const LANGUAGES: [&str; 4] = ["English", "German", "Russian", "Spanish"];

const OPENINGS: &[&str] = &[
    "I have been teaching {subject} for {years} years, at a school first and on my own since.",
    "After {years} years in the profession I teach {subject} to beginners and to people who thought they never could.",
    "{years} years of lessons have taught me to listen before I explain.",
    "I came to {subject} late and with pleasure, and have taught it for {years} years.",
    "I studied {subject} at university and have been a tutor for {years} years.",
];

const CLOSINGS: &[&str] = &[
    "The first half hour is for getting to know each other.",
    "Homework is short, and I read all of it.",
    "Children from ten years on are welcome, and so are their grandparents.",
    "We begin with a small test and make a plan from it.",
    "I teach in English and in my mother tongue.",
    "Lessons can be moved until the evening before.",
];

const SUBJECTS: &[&Subject] = &[
    &Subject {
        name: "Mathematics",
        also: &["Physics", "Statistics", "Programming"],
        headlines: &[
            "Algebra and geometry without fear",
            "Calculus explained with pictures",
            "Exam preparation in mathematics",
            "From fractions to functions, step by step",
        ],
        about: &[
            "We solve few problems and understand each of them.",
            "Proofs, patterns and a lot of drawing: equations come last.",
            "Most of my students come for an exam and stay for the riddles.",
        ],
    },
    &Subject {
        name: "Physics",
        also: &["Mathematics", "Astronomy", "Chemistry"],
        headlines: &[
            "Physics with experiments you can do in a kitchen",
            "Mechanics and electricity for final exams",
            "University physics, from waves to quanta",
        ],
        about: &[
            "Every formula gets an experiment before it gets a name.",
            "We guess first, then measure, then calculate.",
        ],
    },
    &Subject {
        name: "English",
        also: &["Literature", "Academic writing"],
        headlines: &[
            "Conversational English for shy people",
            "IELTS and Cambridge exam preparation",
            "Business English that sounds like you",
            "English grammar, finally clear",
        ],
        about: &[
            "We speak from the first minute, and correct only what matters.",
            "Songs, news and your own letters are our textbook.",
        ],
    },
    &Subject {
        name: "German",
        also: &["English", "Literature"],
        headlines: &[
            "German for work and for everyday life",
            "Goethe certificate B1 to C1",
            "German with stories instead of tables",
        ],
        about: &[
            "Der, die, das can be learnt: I know a way.",
            "We read one short text a lesson and talk about it until it is yours.",
        ],
    },
    &Subject {
        name: "Russian",
        also: &["Literature", "History"],
        headlines: &[
            "Русский язык: подготовка к ЕГЭ",
            "Russian for foreigners, from the alphabet on",
            "Сочинение и грамотность без зубрёжки",
        ],
        about: &[
            "Читаем, обсуждаем, пишем: правила приходят сами.",
            "Cases make sense once you hear them; we listen a lot.",
        ],
    },
    &Subject {
        name: "Programming",
        also: &["Mathematics", "Computer science"],
        headlines: &[
            "Python for complete beginners",
            "Rust and systems programming",
            "Web development with real projects",
            "Algorithms for interviews and olympiads",
        ],
        about: &[
            "We build something you can show at the end of every month.",
            "Reading other people's code comes first, and tests come before bugs.",
        ],
    },
    &Subject {
        name: "Chemistry",
        also: &["Biology", "Physics"],
        headlines: &["Organic chemistry made readable", "Chemistry for medical school entrance"],
        about: &[
            "Reactions are stories: who gives, who takes, and why.",
            "We balance equations until it is boring, and then it is easy.",
        ],
    },
    &Subject {
        name: "Biology",
        also: &["Chemistry", "Ecology"],
        headlines: &["Genetics and evolution for curious people", "Biology for final and entrance exams"],
        about: &[
            "We draw every cell once and never forget it.",
            "From a walk in the park to the exam, in small steps.",
        ],
    },
    &Subject {
        name: "Piano",
        also: &["Music theory", "Singing"],
        headlines: &[
            "Piano for adults who start late",
            "Classical piano and exam grades",
            "Jazz piano and improvisation",
        ],
        about: &[
            "Ten minutes a day are enough, if they are the right ten.",
            "You play a whole piece in your first month.",
        ],
    },
    &Subject {
        name: "Guitar",
        also: &["Music theory", "Songwriting"],
        headlines: &["Acoustic guitar: songs from the first lesson", "Fingerstyle and classical guitar"],
        about: &["Bring the songs you love, and I bring the chords.", "Rhythm first: everything else can be mended."],
    },
    &Subject {
        name: "History",
        also: &["Geography", "Literature"],
        headlines: &["History as detective work", "Modern history for exams and essays"],
        about: &[
            "We read letters and newspapers of the time before any textbook.",
            "Dates are pegs: I show what hangs on them.",
        ],
    },
    &Subject {
        name: "Spanish",
        also: &["English", "Literature"],
        headlines: &[
            "Spanish for travellers and newcomers",
            "DELE preparation with a native speaker",
            "Spanish through film and music",
        ],
        about: &["Hablamos mucho: mistakes are welcome here.", "You order, argue and joke in Spanish within weeks."],
    },
    &Subject {
        name: "Drawing",
        also: &["Art history", "Design"],
        headlines: &["Drawing from life for beginners", "Portfolio preparation for art school"],
        about: &[
            "Everybody who can write can draw; I prove it in one lesson.",
            "We look for a long time and draw quickly.",
        ],
    },
    &Subject {
        name: "Chess",
        also: &["Mathematics"],
        headlines: &["Chess for children and their parents", "From club player to candidate master"],
        about: &["We analyse your own games, above all the lost ones.", "Endgames first: they teach what pieces are."],
    },
    &Subject {
        name: "Economics",
        also: &["Statistics", "Mathematics"],
        headlines: &["Micro- and macroeconomics for students", "Statistics and econometrics with real data"],
        about: &[
            "Each model gets one newspaper article that it explains, and one that it does not.",
            "We do the sums by hand once, and then with a computer.",
        ],
    },
];
