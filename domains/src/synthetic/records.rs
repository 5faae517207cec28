//! Tables of orders in CSV, followed by some of their rows as JSON: a city determines its country and code, an item its
//! price, amount and price the total, and the JSON repeats the table.

use std::fmt::Write;

use crate::random::Sequence;

const CITIES: [(&str, &str, &str); 14] = [
    ("Oslo", "Norway", "NO"),
    ("Lyon", "France", "FR"),
    ("Porto", "Portugal", "PT"),
    ("Graz", "Austria", "AT"),
    ("Turku", "Finland", "FI"),
    ("Bari", "Italy", "IT"),
    ("Ghent", "Belgium", "BE"),
    ("Varna", "Bulgaria", "BG"),
    ("Split", "Croatia", "HR"),
    ("Malmo", "Sweden", "SE"),
    ("Lille", "France", "FR"),
    ("Bergen", "Norway", "NO"),
    ("Turin", "Italy", "IT"),
    ("Braga", "Portugal", "PT"),
];
const ITEMS: [(&str, u64); 12] = [
    ("lamp", 24),
    ("chair", 45),
    ("kettle", 31),
    ("rug", 78),
    ("clock", 19),
    ("shelf", 62),
    ("mirror", 37),
    ("bowl", 8),
    ("stool", 28),
    ("vase", 15),
    ("desk", 120),
    ("fan", 33),
];

struct Order {
    id: u64,
    city: usize,
    item: usize,
    amount: u64,
}

impl Order {
    fn total(&self) -> u64 {
        self.amount * ITEMS[self.item].1
    }
}

pub(super) fn document(numbers: &mut Sequence) -> String {
    let mut id = numbers.between(1000, 9000);
    let count = numbers.between(7, 14);
    let orders: Vec<Order> = (0..count)
        .map(|_| {
            id += numbers.between(1, 9);
            let city = numbers.below(CITIES.len() as u64) as usize;
            let item = numbers.below(ITEMS.len() as u64) as usize;
            Order { id, city, item, amount: numbers.between(1, 9) }
        })
        .collect();
    let mut text = table(&orders);
    let repeated = numbers.between(3, 6) as usize;
    for at in numbers.distinct(repeated, orders.len()) {
        object(&orders[at], &mut text);
    }
    let sum: u64 = orders.iter().map(Order::total).sum();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "rows={} sum={sum}", orders.len());
    text
}

fn table(orders: &[Order]) -> String {
    let mut text = String::from("id,city,country,code,item,price,amount,total\n");
    for order in orders {
        let ((city, country, code), (item, price)) = (CITIES[order.city], ITEMS[order.item]);
        let (id, amount, total) = (order.id, order.amount, order.total());
        let _ = writeln!(text, "{id},{city},{country},{code},{item},{price},{amount},{total}");
    }
    text
}

fn object(order: &Order, text: &mut String) {
    let ((city, country, _), (item, price)) = (CITIES[order.city], ITEMS[order.item]);
    let (id, amount, total) = (order.id, order.amount, order.total());
    let place = format!("\"city\": \"{city}\", \"country\": \"{country}\"");
    let goods = format!("\"item\": \"{item}\", \"price\": {price}, \"amount\": {amount}, \"total\": {total}");
    let _ = writeln!(text, "{{\"id\": {id}, {place}, {goods}}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_repeated_rows_agree() {
        for seed in 0..100 {
            let text = document(&mut Sequence::new(seed));
            let (mut sum, mut rows) = (0, std::collections::HashMap::new());
            for line in text.lines().skip(1).take_while(|line| !line.starts_with('{')) {
                let cells: Vec<&str> = line.split(',').collect();
                let number = |at: usize| cells[at].parse::<u64>().unwrap();
                assert_eq!(number(5) * number(6), number(7));
                sum += number(7);
                rows.insert(number(0), cells[1].to_string());
            }
            for line in text.lines().filter(|line| line.starts_with('{')) {
                let object: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(rows[&object["id"].as_u64().unwrap()], object["city"].as_str().unwrap());
            }
            assert!(text.ends_with(&format!("rows={} sum={sum}\n", rows.len())));
        }
    }
}
