"""The pool of full names that the benchmark's queues are drawn from: 64 first names by 64 last names."""

from __future__ import annotations

# Frequent English names, which the usual vocabularies hold in one or two tokens. ASCII, no name in both lists.
# fmt: off
FIRST = (
    "Alice", "Amy", "Andrew", "Anna", "Barbara", "Ben", "Betty", "Brian", "Carol", "Chris", "Claire", "Daniel", "David",
    "Diana", "Donna", "Edward", "Ellen", "Emily", "Emma", "Eric", "Fiona", "Frank", "Grace", "Hannah", "Helen", "Henry",
    "Ian", "Jack", "Jane", "Jason", "Jennifer", "John", "Julia", "Karen", "Kate", "Kevin", "Laura", "Linda", "Lisa",
    "Lucy", "Mark", "Mary", "Matthew", "Michael", "Nancy", "Nick", "Oliver", "Paul", "Peter", "Rachel", "Richard",
    "Robert", "Ruth", "Sam", "Sarah", "Simon", "Sophie", "Steve", "Susan", "Tim", "Tom", "Victor", "Walter", "William",
)
LAST = (
    "Adams", "Allen", "Anderson", "Bailey", "Baker", "Bell", "Bennett", "Brooks", "Brown", "Butler", "Campbell",
    "Carter", "Clark", "Collins", "Cook", "Cooper", "Cox", "Davis", "Edwards", "Evans", "Fisher", "Foster", "Garcia",
    "Gibson", "Gray", "Green", "Hall", "Hamilton", "Harris", "Hill", "Howard", "Hughes", "Jackson", "Johnson", "Jones",
    "King", "Lee", "Lewis", "Lopez", "Marshall", "Martin", "Miller", "Mitchell", "Moore", "Morgan", "Murphy", "Nelson",
    "Parker", "Phillips", "Price", "Roberts", "Robinson", "Rogers", "Russell", "Smith", "Stewart", "Taylor", "Turner",
    "Walker", "Watson", "White", "Wilson", "Wood", "Young",
)
# fmt: on
POOL = tuple(f"{first} {last}" for first in FIRST for last in LAST)
