//! Names and cities.

use super::dice::Dice;

struct Country {
    first: &'static [&'static str],
    last: &'static [&'static str],
    cities: &'static [&'static str],
}

/// A full name and a city of the same country.
pub(super) fn person(dice: &mut Dice) -> (String, &'static str) {
    let country = dice.one_of(COUNTRIES);
    let name = format!("{} {}", dice.one_of(country.first), dice.one_of(country.last));
    (name, dice.one_of(country.cities))
}

const COUNTRIES: &[&Country] = &[
    &Country {
        first: &["Анна", "Мария", "Екатерина", "Ольга", "Дарья", "Наталья", "Софья", "Полина", "Елена", "Вера"],
        last: &["Иванова", "Петрова", "Соколова", "Морозова", "Волкова", "Лебедева", "Новикова", "Козлова", "Орлова"],
        cities: &["Москва", "Санкт-Петербург", "Казань", "Новосибирск", "Екатеринбург"],
    },
    &Country {
        first: &["Иван", "Дмитрий", "Алексей", "Михаил", "Сергей", "Артём", "Николай", "Фёдор", "Павел", "Илья"],
        last: &["Смирнов", "Кузнецов", "Попов", "Васильев", "Фёдоров", "Зайцев", "Белов", "Тарасов", "Щукин"],
        cities: &["Москва", "Санкт-Петербург", "Казань", "Нижний Новгород", "Томск"],
    },
    &Country {
        first: &["Emma", "Lukas", "Hannah", "Jonas", "Lena", "Maximilian", "Greta", "Felix", "Jürgen", "Anja"],
        last: &["Müller", "Schmidt", "Weber", "Köhler", "Fischer", "Großmann", "Becker", "Schäfer", "Vogel"],
        cities: &["Berlin", "Hamburg", "München", "Leipzig"],
    },
    &Country {
        first: &["Lucía", "Martín", "Sofía", "Álvaro", "Carmen", "Iñaki", "Paula", "Hugo", "Elena", "Diego"],
        last: &["García", "Núñez", "Fernández", "Ortega", "Muñoz", "Castillo", "Ibáñez", "Romero"],
        cities: &["Madrid", "Barcelona", "Valencia", "Sevilla"],
    },
    &Country {
        first: &["Olivia", "James", "Amelia", "Harry", "Grace", "Oscar", "Charlotte", "Theo", "Imogen", "Alfie"],
        last: &["Taylor", "Brown", "Davies", "Evans", "Whitfield", "O'Connor", "Hughes", "Ashworth"],
        cities: &["London", "Manchester", "Edinburgh", "Bristol"],
    },
    &Country {
        first: &["Camille", "Louis", "Chloé", "Étienne", "Manon", "Théo", "Inès", "Gabriel", "Zoé", "René"],
        last: &["Dubois", "Lefèvre", "Moreau", "Garnier", "Lambert", "Chevalier", "Rousseau", "Béranger"],
        cities: &["Paris", "Lyon", "Nantes", "Toulouse"],
    },
    &Country {
        first: &["Priya", "Arjun", "Ananya", "Rohan", "Kavya", "Vikram", "Meera", "Aditya", "Nisha", "Sanjay"],
        last: &["Sharma", "Patel", "Iyer", "Reddy", "Banerjee", "Kapoor", "Nair", "Deshmukh"],
        cities: &["Mumbai", "Bengaluru", "Delhi", "Chennai"],
    },
    &Country {
        first: &["Zofia", "Jakub", "Maja", "Szymon", "Łucja", "Antoni", "Hanna", "Wojciech", "Żaneta", "Paweł"],
        last: &["Nowak", "Wójcik", "Mazur", "Kaczmarek", "Zając", "Pawlak", "Wróbel", "Sikora"],
        cities: &["Warszawa", "Kraków", "Wrocław", "Gdańsk"],
    },
    &Country {
        first: &["Айгерим", "Алия", "Динара", "Мадина", "Жанна", "Сауле"],
        last: &["Ахметова", "Омарова", "Касымова", "Жумабаева", "Сейткалиева"],
        cities: &["Алматы", "Астана", "Шымкент"],
    },
    &Country {
        first: &["Yuki", "Haruto", "Sakura", "Ren", "Aoi", "Kaito", "Hina", "Daichi"],
        last: &["Tanaka", "Sato", "Yamamoto", "Kobayashi", "Nakamura", "Fujimoto"],
        cities: &["Tokyo", "Osaka", "Kyoto"],
    },
];
