"""The words that training text is made of."""


def words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = words("""
amber ancient bitter black blue bold brave bright broken brown calm careful clean clear clever cloudy cold cool crimson
curious dark deep distant dry dusty eager early empty fair famous fast fierce fine fresh gentle giant glad golden good
grand gray great green happy heavy hidden high hollow honest huge hungry icy jolly kind large late lazy light little
lonely long loud lucky mighty misty modern narrow neat new noble odd old open orange pale patient plain polite proud
purple quick quiet rapid rare red rich ripe rough round royal rusty sad salty sharp short shy silent silver simple
slow small smart smooth soft solid sour steady still stormy strange strong sunny sweet swift tall tame thick thin
tiny tired violet warm weak wet white wide wild wise wooden yellow young
""")

ANIMALS = words("""
ant badger bat bear beaver bee bird bison cat cow crab crane crow deer dog dolphin donkey dove duck eagle eel elk
falcon ferret fish fox frog goat goose gull hamster hare hawk hedgehog heron horse hound koala lamb lark lion lizard
llama lynx mole monkey moose moth mouse mule newt otter owl ox panda parrot penguin pigeon pony puma rabbit raccoon
raven robin salmon seal shark sheep snail snake sparrow spider squirrel stork swan tiger toad trout turtle walrus
wasp whale wolf wombat worm yak zebra
""")

OBJECTS = words("""
anchor apple arrow bag ball banana barrel basket bell bench blanket boat book bottle bowl box bread brick bridge broom
brush bucket button cabinet cable cake camera candle canvas card carpet carrot castle chain chair cheese cherry chest
clock cloud coat coin compass cookie cord crown cup curtain desk diamond dish door drawer drum egg engine envelope
feather fence flag flask flower flute fork fountain garden gate gear glass glove grape guitar hammer harbor hat
helmet hook house island jacket jar jewel kettle key kite knife ladder lake lamp lantern leaf lemon letter lock map
mask melon mirror mountain nail needle nest net notebook onion oven paddle paint paper path peach pear pearl pen
pencil piano picture pillow pipe plate plum pocket poem potato puzzle radio rain ring river road rocket roof rope
rose rug sail scarf seed shell ship shirt shoe shovel sock spoon stairs stamp star statue stone stove string table
tent ticket tomato tool torch tower town toy train tree trumpet tunnel umbrella valley vase village violin wagon
wall watch wheel whistle window wing wire wool
""")

NAMES = words("""
Adam Alice Amir Anna Ben Bella Bruno Carla Carlos Chen Clara Daniel David Diana Diego Elena Eli Emma Eric Eva Felix
Fiona Frank George Grace Hana Hannah Hassan Helen Henry Hugo Ida Igor Inez Isaac Ivan Jack Jane Jasper Jin John Julia
Karen Kate Kenji Laila Laura Leo Liam Lily Lucas Lucy Luis Maria Mark Marta Max Maya Mei Mia Mila Nadia Nina Noah Nora
Olga Oliver Omar Oscar Paul Pedro Petra Priya Quinn Rachel Ravi Rita Robert Rosa Ruth Sam Sara Simon Sofia Stella Tara
Theo Thomas Tom Uma Vera Victor Wendy Will Yara Yuki Zoe
""")

SURNAMES = words("""
Adams Allen Baker Bell Brown Carter Clark Cohen Cook Cooper Costa Cruz Davis Diaz Evans Fischer Ford Garcia Gray Green
Hall Harris Hill Hughes Ito Jackson Jones Kaya Kelly Khan Kim King Kumar Lee Lewis Lopez Martin Meyer Miller Moore
Morgan Murphy Novak Okafor Olsen Parker Patel Perez Price Reed Rossi Santos Scott Silva Singh Smith Stone Suzuki Tanaka
Taylor Turner Walker Wang Ward Weber White Wilson Wolf Wood Wright Young Zhang
""")

COUNTRIES = """
Argentina: Buenos Aires, Australia: Canberra, Austria: Vienna, Belgium: Brussels, Brazil: Brasilia, Canada: Ottawa,
Chile: Santiago, China: Beijing, Colombia: Bogota, Cuba: Havana, Denmark: Copenhagen, Egypt: Cairo,
England: London, Estonia: Tallinn, Finland: Helsinki, France: Paris, Germany: Berlin, Greece: Athens,
Hungary: Budapest, Iceland: Reykjavik, India: New Delhi, Indonesia: Jakarta, Iran: Tehran, Iraq: Baghdad,
Ireland: Dublin, Italy: Rome, Japan: Tokyo, Kenya: Nairobi, Latvia: Riga, Mexico: Mexico City, Morocco: Rabat,
Nepal: Kathmandu, the Netherlands: Amsterdam, New Zealand: Wellington, Nigeria: Abuja, Norway: Oslo, Peru: Lima,
Poland: Warsaw, Portugal: Lisbon, Romania: Bucharest, Russia: Moscow, Senegal: Dakar, Serbia: Belgrade,
South Korea: Seoul, Spain: Madrid, Sweden: Stockholm, Switzerland: Bern, Thailand: Bangkok, Tunisia: Tunis,
Turkey: Ankara, Ukraine: Kyiv, the United Kingdom: London, the United States: Washington, Vietnam: Hanoi
"""
CAPITALS = [pair.strip().split(": ") for pair in COUNTRIES.split(",")]

CITIES = sorted(
    {capital for _, capital in CAPITALS}
    | set(words("Barcelona Boston Chicago Geneva Hamburg Istanbul Kyoto Lyon Milan Mumbai Munich Naples Osaka Porto"))
    | set(words("Prague Seattle Shanghai Singapore Sydney Toronto Venice Zurich"))
)

JOBS = words("""
artist baker builder carpenter chef dentist doctor driver engineer farmer firefighter gardener journalist judge lawyer
librarian mechanic musician nurse painter pilot plumber sailor scientist singer student tailor teacher translator
waiter writer
""")

VERBS = words("""
carry catch clean climb count cover cross draw drop fill find fix follow gather guard hide hold keep leave lift lose
mark mend move open paint pass pull push raise reach read repair save sell send share show store take test throw
touch trade turn visit wash watch
""")

COLORS = words("amber black blue brown crimson golden gray green orange pink purple red silver violet white yellow")

FRUITS = words("apples bananas cherries figs grapes lemons limes melons oranges peaches pears plums")

WORDS = sorted(set(ADJECTIVES + ANIMALS + OBJECTS + JOBS + VERBS + FRUITS))
