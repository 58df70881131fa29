"""Example rows of the summarization rewards: invented short reports with summaries, the references."""

from __future__ import annotations

from typing import Any


def _row(source: str, completion: str) -> dict[str, Any]:
    prompt = f"Summarize the following report in one or two sentences.\n\n{source}"
    return {"prompt": prompt, "completion": completion, "source": source, "reference": completion}


EXAMPLES: list[dict[str, Any]] = [
    _row(
        "The town council of Ellerby voted on Tuesday to close Mill Bridge to cars for eighteen months. Engineers "
        "found in March that two of the stone piers have lost a third of their foundation to the river, and that the "
        "bridge could fail in a flood. Repairs will cost about 4.2 million pounds, of which the county pays half. "
        "Pedestrians and cyclists may keep using a temporary walkway. Shopkeepers on the east bank fear that they "
        "will lose customers, because the detour by way of Harlow adds twenty minutes to the drive.",
        "Ellerby will close Mill Bridge to cars for eighteen months so that engineers can repair its weakened piers, "
        "which worries shopkeepers on the east bank.",
    ),
    _row(
        "A team at the University of Tromvik has shown that bumblebees can learn to pull a string in order to reach "
        "a flower with sugar water. The researchers trained 40 bees, one step at a time, and let 25 untrained bees "
        "watch them through a window. Of the watchers, 15 solved the task at their first attempt, while only two of "
        "110 bees that had never seen it did. The skill spread through whole colonies and outlived the bee that "
        "brought it in. The authors say that simple learning may be enough to explain what looks like culture.",
        "Bumblebees that watch trained bees learn to pull a string for sugar water, and the skill then spreads "
        "through their colonies, researchers in Tromvik found.",
    ),
    _row(
        "Nordlys Air has cancelled all flights from its base in Brenna until Friday after a fault in its booking "
        "system. The airline noticed on Monday night that seats had been sold twice on more than 300 flights. Around "
        "28,000 passengers are affected. Most of them have been offered a refund or a seat with another carrier, but "
        "many told reporters that the hotline was dead for hours. Chief executive Ida Holm apologized and said that "
        "the fault came from a software update. The regulator has opened an inquiry.",
        "A fault in its booking system has forced Nordlys Air to cancel flights from Brenna until Friday, which "
        "affects some 28,000 passengers; the regulator is looking into it.",
    ),
    _row(
        "Wheat prices rose for a fifth week after rain delayed the harvest across the Varda plain. Farmers there have "
        "brought in only 40 percent of the crop, compared with 75 percent at this time last year, and millers report "
        "that much of the grain is too wet to store. The ministry of agriculture has cut its forecast from 21 to 17 "
        "million tonnes. Exporters say that buyers in North Africa have begun to look for wheat elsewhere. Bread may "
        "become more expensive in autumn, the bakers' association warned.",
        "Rain has delayed the wheat harvest on the Varda plain, so prices keep rising, the ministry has cut its "
        "forecast, and bakers warn that bread may cost more in autumn.",
    ),
    _row(
        "The city library of Marren will lend out tools as well as books from next month. Residents can borrow "
        "drills, ladders, sewing machines and some 200 other things for a week with their ordinary library card. The "
        "idea came from librarian Tomas Reyes, who noticed that visitors kept asking where they could hire a drill "
        "for a single afternoon. A local foundation gave 30,000 euros, and volunteers of a repair club will check "
        "each tool when it comes back. Similar projects elsewhere have cut waste and brought new visitors.",
        "From next month, Marren's library will also lend tools such as drills and ladders, an idea of librarian "
        "Tomas Reyes that a local foundation pays for and a repair club supports.",
    ),
    _row(
        "Striker Lena Okafor scored twice in the last ten minutes as Rovers came from behind to beat Harbour United "
        "3-2 and reach the cup final. United had led by two goals at the break and looked safe until Mara Singh "
        "headed one back from a corner. Okafor, who had come on as a substitute after six weeks with a knee injury, "
        "equalized from close range and then hit the winner from the edge of the area. Rovers will meet the holders, "
        "Castle City, in the final on 12 May. Coach Paula Brandt called it the best night of her career.",
        "Substitute Lena Okafor struck two late goals to give Rovers a 3-2 comeback win over Harbour United and a "
        "place in the cup final against Castle City.",
    ),
    _row(
        "Doctors in the Lindau district will offer a new test for bowel cancer that patients can do at home. The kit "
        "arrives by post and needs only a small sample, which goes to a laboratory in a sealed tube. In a trial with "
        "9,000 people aged between 50 and 74, twice as many took part as in earlier programs that required a visit "
        "to a clinic. Early stages, in which treatment works best, were found in 61 patients. Health officials hope "
        "to extend the offer to the whole country within two years if laboratories can cope.",
        "Patients in Lindau can soon test themselves for bowel cancer at home; in a trial, the kit doubled the number "
        "of people taking part, and officials hope to offer it across the country.",
    ),
    _row(
        "The last lighthouse keeper of the Saltholm coast, Anders Vik, retires this week after 41 years. The light "
        "itself was automated in 1998, but Vik stayed on to look after the buildings and to count seabirds for the "
        "nature agency. His notebooks, which record every puffin and guillemot since 1985, have helped scientists to "
        "show how the warming sea drives fish, and the birds that feed on them, farther north. The agency wants to "
        "turn his house into a field station. Vik says that he will miss the storms most.",
        "Anders Vik, the last lighthouse keeper on the Saltholm coast, is retiring after 41 years, in which his "
        "counts of seabirds helped scientists to show how a warming sea drives birds north.",
    ),
    _row(
        "Engineers have begun to drain Lake Orva in order to inspect the dam for the first time since 1974. Over the "
        "next three weeks the water level will fall by 26 meters and uncover the ruins of Old Orva, a village that "
        "was flooded when the dam was built. Archaeologists from Kelling have six weeks to map its church and mill "
        "before the lake is filled again. Former villagers and their families have been invited to a service among "
        "the ruins. The operator asks visitors to stay off the mud, in which a man had to be rescued on Sunday.",
        "While Lake Orva is drained for an inspection of its dam, the flooded village of Old Orva comes to light, and "
        "archaeologists have six weeks to map the ruins.",
    ),
    _row(
        "Schools in the province of Tarn will start an hour later from September. The decision follows a pilot "
        "project at 14 schools, in which pupils who began at nine slept 43 minutes longer on average and were late "
        "half as often. Their marks in mathematics improved slightly, while those in languages did not change. Bus "
        "companies had opposed the plan, because drivers would have to work into the evening, but agreed after the "
        "province promised 1.5 million euros a year. Parents who start work early can use a free breakfast club.",
        "Pupils in Tarn will start school an hour later from September, after a pilot project showed that they slept "
        "longer and were late less often.",
    ),
]
