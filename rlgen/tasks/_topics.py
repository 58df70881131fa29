"""Short plain facts about everyday topics: what generated instructions are about, and what good answers say."""

TOPICS: dict[str, tuple[str, ...]] = {
    "bees": (
        "Bees live in large colonies.",
        "They carry pollen from flower to flower.",
        "Many crops depend on their work.",
    ),
    "bread": (
        "Bread is made from flour and water.",
        "Yeast makes the dough rise.",
        "It tastes best when it is still warm.",
    ),
    "bridges": (
        "A bridge carries people over a river or a road.",
        "Engineers plan it with great care.",
        "Some bridges are very old.",
    ),
    "cats": ("Cats sleep for most of the day.", "They hunt mice at night.", "A happy cat often purrs."),
    "chess": (
        "Chess is a game for two players.",
        "Every piece moves in its own way.",
        "The player who traps the king wins.",
    ),
    "clouds": (
        "Clouds are made of tiny drops of water.",
        "They form when warm air rises and cools.",
        "Dark clouds often bring rain.",
    ),
    "coffee": (
        "Coffee grows in warm countries.",
        "The beans are roasted before they are ground.",
        "Many people drink a cup every morning.",
    ),
    "dogs": (
        "Dogs are loyal companions.",
        "They need a long walk every day.",
        "A good dog learns new tricks quickly.",
    ),
    "dreams": (
        "Most people dream every night.",
        "Dreams are often strange and hard to remember.",
        "They may help the brain to sort the day.",
    ),
    "earthquakes": (
        "An earthquake shakes the ground without warning.",
        "It happens when plates of rock slip.",
        "Strong buildings save many lives.",
    ),
    "elephants": (
        "Elephants are the largest animals on land.",
        "They live in families led by an old female.",
        "Their memory is very good.",
    ),
    "exercise": (
        "Regular exercise keeps the heart strong.",
        "Even a short walk helps.",
        "It also lifts the mood and improves sleep.",
    ),
    "forests": (
        "Forests give shelter to many animals.",
        "Trees clean the air that we breathe.",
        "A healthy forest holds the soil in place.",
    ),
    "friendship": ("A good friend listens well.", "Friends share both joy and trouble.", "Trust takes time to grow."),
    "gardening": (
        "Gardening needs patience and a little water.",
        "Seeds grow best in good soil.",
        "Fresh vegetables are a fine reward.",
    ),
    "glaciers": (
        "Glaciers are rivers of ice.",
        "They move slowly down the mountains.",
        "Many of them shrink every year.",
    ),
    "history": (
        "History tells us how people lived before.",
        "Old letters are a precious source.",
        "It helps us to understand the present.",
    ),
    "honesty": (
        "Honest people say what they think.",
        "Trust is built on the truth.",
        "A small lie can do great harm.",
    ),
    "horses": (
        "Horses can run very fast.",
        "People have ridden them for thousands of years.",
        "They eat grass and hay.",
    ),
    "languages": (
        "There are thousands of languages in the world.",
        "Children learn them with ease.",
        "Practice every day is the best method.",
    ),
    "libraries": (
        "A library lends books to everybody.",
        "It is a quiet place to read and learn.",
        "Most of its services are free.",
    ),
    "lighthouses": (
        "A lighthouse warns ships at night.",
        "Its bright lamp turns all the time.",
        "Most of them stand on rocky coasts.",
    ),
    "magnets": (
        "A magnet attracts iron.",
        "It has a north pole and a south pole.",
        "Equal poles push each other away.",
    ),
    "mathematics": (
        "Mathematics is about numbers and shapes.",
        "It helps us to solve real problems.",
        "Clear thinking matters more than speed.",
    ),
    "mountains": (
        "Mountains rise where plates of the earth meet.",
        "The air is thin at the top.",
        "Climbers must prepare for bad weather.",
    ),
    "music": (
        "Music can change the way we feel.",
        "Every culture has its own songs.",
        "Learning an instrument takes years of practice.",
    ),
    "oceans": (
        "Oceans cover most of our planet.",
        "They are home to countless animals.",
        "The deepest places are still unknown.",
    ),
    "painting": (
        "A painter works with color and light.",
        "Some pictures take months to finish.",
        "Many great works hang in museums.",
    ),
    "penguins": ("Penguins are birds that cannot fly.", "They swim very well.", "Both parents take care of the egg."),
    "planets": (
        "Eight planets travel around the sun.",
        "The inner ones are made of rock.",
        "Jupiter is the largest of them all.",
    ),
    "rain": (
        "Rain falls when the drops in a cloud grow heavy.",
        "It fills the rivers and lakes.",
        "Plants could not live without it.",
    ),
    "reading": (
        "Reading opens the door to other worlds.",
        "It makes the mind strong.",
        "A good story can stay with us for years.",
    ),
    "rivers": (
        "A river begins as a small stream.",
        "It flows downhill to the sea.",
        "Many cities were built beside one.",
    ),
    "robots": (
        "Robots do work that is dull or dangerous.",
        "They follow the orders of a program.",
        "Some of them can learn from mistakes.",
    ),
    "salt": (
        "Salt makes food taste better.",
        "It is found in the sea and in mines.",
        "Too much of it is bad for the heart.",
    ),
    "sleep": (
        "Sleep gives the body time to rest.",
        "Most adults need about eight hours.",
        "A dark and quiet room is best.",
    ),
    "snow": (
        "Snow is made of small crystals of ice.",
        "No two flakes look the same.",
        "It keeps the ground warm in winter.",
    ),
    "spiders": (
        "Spiders have eight legs.",
        "Many of them build webs to catch insects.",
        "Most kinds are harmless to people.",
    ),
    "spring": ("In spring the days become longer.", "The trees grow new leaves.", "Many birds return from the south."),
    "stars": (
        "Stars are huge balls of hot gas.",
        "They shine for billions of years.",
        "The sun is the one that is closest to us.",
    ),
    "teachers": (
        "A good teacher explains things clearly.",
        "She gives every child a chance.",
        "Patience is part of the work.",
    ),
    "tea": (
        "Tea is made from the leaves of a small tree.",
        "It should not be brewed too long.",
        "Many people enjoy it in the afternoon.",
    ),
    "trains": (
        "Trains carry many people at once.",
        "They are safe and rarely late.",
        "A journey by train is good for the climate.",
    ),
    "volcanoes": (
        "A volcano is an opening in the earth.",
        "Hot rock and gas come out of it.",
        "The soil around it is often rich.",
    ),
    "water": ("All living things need water.", "It freezes when it is very cold.", "Clean water is a great good."),
    "whales": (
        "Whales live in the sea but breathe air.",
        "They sing to each other over long distances.",
        "The blue whale is the largest of them.",
    ),
    "wind": (
        "Wind is air in motion.",
        "It turns the wheels that make electricity.",
        "Sailors have always used its force.",
    ),
    "writing": (
        "Clear writing begins with clear thinking.",
        "Short sentences are easy to read.",
        "Every text gets better with a second look.",
    ),
}
