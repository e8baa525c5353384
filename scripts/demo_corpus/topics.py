"""The words of each topic, as texts that `lexicon` parses; they were written for qkspace.

In: nothing. Out: `TOPICS`, one text a topic. Knows no grammar: which form a word takes is the business of others.

How a text is written (entries of a line are separated by `;`):
  people  `cook waiter:m`: person nouns, `:m` or `:f` where the noun fixes the gender
  nouns   `loaf/loaves warm fresh @from:bakery`: an irregular plural after `/`, then adjectives, then noun modifiers;
          a trailing `%` is a mass noun, `&` plural only, `^` one of a kind; `bread_knife` is a compound
  events  `slice | objects | tools | places`: `!` marks a verb nobody does on purpose, `switch_off` carries a particle;
          an object may be `pot>tea` (pot of tea), `plate*` (plural only) or `piano+` (singular only)
  gifts   `give hand | objects`: verbs with two objects
  acts    `wait @in:kitchen`: what people do without an object
  happen  `kettle whistle @on:stove`: what things do by themselves
  because, although  `guest* hungry`: states that explain an action, or that speak against it
"""

TOPICS: dict[str, str] = {
    "kitchen": """
people: baker; cook; chef; waiter:m; waitress:f; grandmother:f; apprentice
place: kitchen
nouns: loaf/loaves warm fresh round @from:bakery; onion large red; cheese% soft strong @from:farm; carrot long fresh
nouns: tomato/tomatoes ripe red; knife/knives sharp long blunt; bread_knife sharp old; board wooden clean
nouns: soup% hot thick; sauce spicy thin sweet; porridge% hot lumpy; spoon wooden silver; ladle long heavy
nouns: tea% hot sweet; milk% cold fresh; jug blue tall @from:market; apple green sour @from:orchard
nouns: potato/potatoes large muddy; peeler blunt cheap; pie golden warm; cake tall sweet @with:cherry*; oven hot old
nouns: toast% dry black; plate clean white chipped; bowl deep blue @of:soup; glass/glasses tall dirty empty
nouns: sponge wet soft; tray heavy round; kettle heavy noisy; table long wide; floor tiled wet; egg fresh brown
nouns: mushroom wild small @from:forest; pan iron hot; cloth clean damp; sink deep; kitchen small warm; bakery small
nouns: cherry/cherries sweet; pot large; stove old; recipe secret simple; cup small clean; guest late polite
nouns: window open; cupboard tall narrow; apron white dirty; menu short new; flour% damp; bread% fresh; orchard old
nouns: forest dark
events: slice | loaf onion cheese carrot tomato | knife bread_knife | on:board
events: stir | soup sauce porridge | spoon ladle; pour | tea milk soup | | into:jug into:bowl
events: peel | apple potato carrot | knife peeler | over:sink; bake | pie cake loaf | | in:oven
events: taste | soup sauce porridge | spoon; burn! | toast pie cake | | in:oven
events: wash | plate bowl glass jug | sponge | in:sink; carry | tray kettle pot>soup | | to:table
events: spill! | milk sauce tea | | on:floor on:table; fry | egg mushroom onion | | in:pan
events: cover | bowl cake pie | cloth; fill | jug kettle pot | | at:sink; drop! | plate tray egg bowl | | on:floor
events: weigh | flour cheese | | on:table
gifts: hand pass | spoon knife jug plate bowl>soup; offer bring | cup>tea glass>milk apple pie
gifts: show give | recipe menu
acts: wait @in:kitchen; sit_down @at:table; doze @near:stove; laugh @in:kitchen; look @into:oven; yawn @at:table
happen: kettle whistle @on:stove; soup boil @in:pot; milk boil_over; oven cool_down; bread rise @in:oven
happen: guest* arrive
because: guest* hungry; soup cold; oven hot; cupboard empty
although: kitchen crowded; floor wet; oven old; recipe complicated
""",
    "garden": """
people: gardener; florist; neighbour; nephew:m; grandfather:m; niece:f
place: garden
nouns: rose red wild pale; tulip yellow late; bean green young; seed tiny black; bed narrow sunny @of:lily*
nouns: spade rusty heavy; hedge thick tall; shears& sharp heavy; path narrow muddy @behind:greenhouse
nouns: leaf/leaves dry golden; rake old wooden; bush/bushes dense thorny; bucket empty leaky; watering_can green
nouns: pear ripe sweet @from:orchard; ladder short shaky; basket wide; weed stubborn tall; lawn wet long
nouns: mower noisy old; fence white broken @behind:shed; brush wide stiff; shed dusty old; greenhouse bright warm
nouns: lily/lilies white; cabbage huge green; wheelbarrow squeaky; hose long; snail slow small; blackbird shy young
nouns: bee busy; hedgehog sleepy; pond shallow green; compost% dark rich; soil% dry soft; tree old tall @near:pond
nouns: branch/branches low rotten; nest empty round; gate rusty open; sun^; grass%; rain%^ heavy; wind^
nouns: garden large quiet
nouns: bench stone green; scarecrow ragged tall; pumpkin enormous orange; wall low
events: plant | rose tulip bean seed cabbage | spade | in:bed behind:greenhouse
events: trim | hedge bush | shears | along:path; sweep | path | brush | behind:shed
events: gather | leaf pear bean | | in:garden; water | rose lily cabbage bean | hose
events: pick | pear bean rose lily | | in:garden; pull_up | weed cabbage | | near:fence
events: mow | lawn+ | mower | behind:shed; paint | fence bench shed gate | brush
events: find! | snail hedgehog nest | | under:bush near:pond; push | wheelbarrow+ | | along:path
events: spread | compost | rake spade | on:bed; saw_off | branch+ | | near:wall
events: feed | blackbird hedgehog | | near:pond; break! | spade rake ladder | | in:shed
events: repair | gate fence scarecrow | | in:garden
gifts: give hand | rose tulip basket>pear* seed pear; show | nest greenhouse scarecrow pumpkin
gifts: lend | spade rake ladder mower
acts: rest @on:bench; kneel @on:path; sit @under:tree; whistle @in:greenhouse; dig @behind:shed; slip @on:path
happen: rain stop; wind drop; sun set; bee* hum @around:rose*; tulip* open @in:sun; leaf* fall @on:lawn
happen: blackbird sing @in:tree
because: soil dry; lawn wet; bean* ripe; weed* tall
although: wind strong; grass wet; path muddy; garden dark
""",
    "school": """
people: teacher; pupil; student; headmaster:m; librarian; girl:f; boy:m
place: school
nouns: sentence long tricky; word short difficult @on:blackboard; answer wrong clever; blackboard dusty; chalk% white
nouns: exercise_book thin new; homework% late untidy; poem short funny; story/stories long strange @about:dragon
nouns: page torn blank; map large old @of:island; ruler broken plastic; line straight thick; pencil short sharp yellow
nouns: picture bright strange; riddle old silly; sum easy difficult; dictionary/dictionaries thick heavy
nouns: desk untidy small; drawer open; bag heavy new; lunch_box red; classroom bright noisy; library/libraries quiet
nouns: corridor long; playground wet noisy; bell loud old; lesson short boring; window wide open; door narrow
nouns: shelf/shelves high; globe round old; dragon; test hard short; rule strict new; question odd clever
nouns: essay long brilliant; island small; school old small; hamster fat; cage empty; corner dark; mistake small silly
nouns: letter long polite; ball red; class/classes noisy
events: copy | sentence word poem | pencil | from:blackboard
events: read | story poem letter essay | | in:library in:classroom
events: draw | line map picture dragon | pencil ruler | on:blackboard
events: correct | mistake essay sum exercise_book | pencil; solve | riddle sum | | on:blackboard
events: lose! | pencil lunch_box ruler ball | | in:playground in:corridor
events: write | letter poem story essay | pencil | in:library; forget! | homework lunch_box bag answer
events: open | window door dictionary drawer; learn | poem word rule | | in:school; wipe | blackboard+ | sponge
events: carry | globe bag dictionary | | along:corridor; hide | ball letter hamster | | in:drawer under:desk
events: explain | rule riddle answer word | | in:classroom; feed | hamster+ | | in:classroom
events: kick | ball+ | | across:playground
gifts: give hand | pencil dictionary letter test; ask | question riddle; show | map picture answer globe
gifts: tell | story riddle; lend | ruler dictionary bag exercise_book
acts: whisper @in:library; giggle @in:corridor; sit @at:desk; run @across:playground; look @at:map; stand @near:window
happen: bell ring @in:corridor; class begin; lesson end; door slam; hamster escape @from:cage; globe fall @from:shelf
because: test hard; classroom cold; lesson boring; question difficult
although: test easy; corridor dark; lesson long; classroom noisy
""",
    "sea": """
people: captain; sailor; fisherman/fishermen:m; diver; islander; lighthouse_keeper
place: harbour
nouns: net torn heavy wet; rope thick wet long; sail white torn; anchor rusty heavy; boat small wooden @from:island
nouns: fish/fish silver large; crab angry small; hook sharp bent; needle long; deck wet; harbour busy sheltered
nouns: beach/beaches long empty; lighthouse distant white @on:cliff; cliff steep grey; lamp bright; shell pink tiny
nouns: pearl perfect; wreck deep old @near:reef; reef sharp; chest locked heavy @with:coin*; coin gold old
nouns: crew brave tired; ferry/ferries late slow; island rocky distant; gull hungry noisy; seal curious grey
nouns: dolphin playful; whale enormous blue; wave high; storm sudden violent; tide^ high; fog%^ thick
nouns: chart old torn @of:bay; compass/compasses brass broken; telescope brass; horizon^; bay quiet; engine old noisy
nouns: bucket>fish; oar long broken; raft small; crate empty heavy; flag red; knot tight; bottle green; mast tall
nouns: barrel full; pier old; mooring; cabin narrow; pump
events: mend | net sail | needle | on:deck on:pier; catch | fish crab | net hook | in:bay
events: lower | anchor sail raft | rope; pull_in | net rope | | at:pier; follow | whale ferry dolphin | | across:bay
events: steer | boat+ ferry+ | | into:harbour; spot! | whale seal lighthouse wreck | telescope | from:deck from:cliff
events: tie | rope boat+ | | to:mast; study | chart horizon wave | telescope | in:cabin on:deck
events: light | lamp | | in:lighthouse; lose! | oar compass hook | | in:storm; find! | shell bottle coin | | on:beach
events: raise | flag sail | | in:harbour; load | crate barrel | | onto:ferry
events: paint | boat mast raft | brush | on:beach; search | wreck beach cabin | lamp
events: repair | engine pump raft | | in:harbour; open | chest crate bottle | knife
gifts: throw | rope oar; show | chart compass pearl wreck; sell | fish crab net boat; hand | telescope hook lamp
gifts: send | bottle chart
acts: swim @to:island; sleep @in:cabin; sing @on:deck; wait @on:pier; dive @into:bay; stare @at:horizon
happen: storm pass; tide turn; fog lift; ferry leave @from:harbour; gull* cry @above:harbour; wave* break @on:reef
happen: engine cough; seal vanish @under:pier; rope snap
because: tide high; crew tired; fog thick; storm close
although: wave* high; deck wet; wind strong; boat old
""",
    "office": """
people: manager; clerk; secretary/secretaries; accountant; lawyer; visitor; director
place: office
nouns: report long dull @about:budget; letter urgent polite @from:bank; contract long new
nouns: invoice old unpaid @from:printer; email short rude; folder thick grey; key spare small; printer noisy slow
nouns: lamp bright; calendar crowded; screen blank wide; meeting long brief; budget tight; plan bold simple
nouns: office bright tidy; desk wide untidy; drawer locked deep; lift slow; stapler broken; paper% blank thin
nouns: envelope thick brown; stamp rare foreign; phone old silent; number wrong secret; coffee% strong cold; cup white
nouns: chair broken comfortable; password long; table round; speech/speeches short; agenda short; bank large
nouns: computer slow old; client angry rich important; parcel small heavy; coat wet; umbrella black; file secret
nouns: cabinet tall; receipt crumpled small; clock loud; deadline^; mistake costly; alarm; meeting_room; photocopier
nouns: signature unreadable; waiting_room; joke bad old; list long @of:client*
events: sign | contract letter report | pen | in:meeting_room; print | report invoice agenda list | | in:office
events: answer | email letter phone+ | | at:desk; lock | drawer cabinet office+ | key
events: switch_off | printer lamp computer screen; file | invoice contract receipt | | in:cabinet
events: lose! | key receipt umbrella file | | in:lift; check | budget+ list invoice number | calculator
events: seal | envelope parcel | tape; forget! | password umbrella meeting
events: repair | stapler printer chair | screwdriver; cancel | meeting contract; postpone | meeting speech
events: find! | mistake receipt file | | in:folder; prepare | speech agenda report | | at:desk
events: drink | coffee | | in:meeting_room; translate | contract letter email | dictionary; shred | receipt list file
gifts: send | invoice contract parcel email; hand give | folder key envelope cup>coffee; offer | chair coffee contract
gifts: show | report plan calendar; tell | password joke number
nouns: pen blue cheap; calculator; tape%; screwdriver short; dictionary/dictionaries thick heavy
acts: wait @in:lift; argue @in:meeting_room; sigh @at:desk; listen @to:client; work @in:office; sneeze @in:meeting
happen: phone ring @on:desk; printer stop; lift stop; meeting begin; client* arrive; alarm ring @in:corridor
happen: clock strike
because: client angry; budget tight; deadline close; computer slow
although: lift slow; meeting long; contract complicated; office cold
""",
    "workshop": """
people: carpenter; mechanic; blacksmith; potter; engineer; inventor; apprentice
place: workshop
nouns: hammer heavy old; nail rusty long; saw sharp rusty; plank long rough; drill loud; hole deep narrow @in:wall
nouns: bolt tight; spanner greasy heavy; wheel crooked wooden; engine old noisy; bicycle rusty red; chain oily broken
nouns: tyre flat worn; chair broken; stool low; box/boxes wooden small; lid tight; glue% sticky; varnish% clear
nouns: vase cracked tall; clay% wet; kiln hot; bench/benches solid untidy; screw loose tiny; screwdriver short
nouns: lock strong stiff; handle loose; toolbox/toolboxes heavy; glove thick torn; hinge squeaky; door heavy; lamp dim
nouns: machine strange complicated @from:museum; robot clumsy small; gear tiny; wire thin bare; battery/batteries flat
nouns: switch/switches; pipe leaky; sandpaper% coarse; workshop cold dusty; roof leaky; wall bare; clock old broken
nouns: spring weak; horse; horseshoe heavy; fire^; museum; rag oily; sketch/sketches rough; customer impatient; cart
events: sharpen | saw | file; drill | hole | | in:plank in:wall; saw | plank pipe | | on:bench
events: tighten | bolt screw chain | spanner; polish | handle lid vase clock | rag sandpaper | on:bench
events: repair | bicycle engine clock lock pipe | screwdriver spanner
events: build | robot machine cart stool | | in:workshop; paint | chair door box stool | brush | in:workshop
events: bend | wire pipe nail; oil | chain hinge lock gear; shape | clay vase horseshoe
events: break! | handle vase saw | | on:floor; replace | battery tyre hinge switch | | in:workshop
events: measure | plank door pipe wheel | ruler; test | robot engine battery switch | | on:bench
events: glue | handle vase box | | to:lid; take_apart | clock engine machine | screwdriver | on:floor
events: misplace! | screwdriver glove spring spanner | | in:workshop
gifts: hand pass | hammer screwdriver spanner nail; lend | drill saw toolbox; show | robot machine sketch
gifts: sell | bicycle vase stool clock
nouns: file small; ruler long metal; floor dirty; brush wide stiff
acts: whistle @in:workshop; kneel @on:floor; cough @near:kiln; frown @at:sketch; work @by:lamp; sleep @under:bench
happen: engine start; wheel turn; clock stop; fire die_down; battery fail; roof leak; robot fall_over @on:floor
happen: hinge creak
because: roof leaky; customer* impatient; deadline close; workshop busy
although: workshop cold; lamp dim; workshop crowded; fire low
""",
    "music": """
people: pianist; singer; drummer; violinist; conductor; composer; dancer
place: concert_hall
nouns: song old sad; waltz/waltzes slow; melody/melodies simple; piano grand black; violin old precious; flute silver
nouns: bow; drum loud small; note high wrong; score long difficult @for:orchestra; stage dark wide; concert long
nouns: rehearsal short; orchestra famous small; choir large; audience quiet; curtain red heavy
nouns: string loose broken @of:guitar; guitar old cheap; trumpet shiny; microphone silent; ticket free; seat empty
nouns: concert_hall; chorus; dress/dresses long green; record rare old; balcony/balconies; radio
nouns: rhythm steady difficult; solo short brilliant; critic famous; duet short; case narrow; shoe black tight
nouns: speaker enormous; candle; practice_room; pencil short; lullaby/lullabies soft; stand crooked; prize first
nouns: encore; banjo; dressing_room
events: play | song waltz melody duet flute guitar | | on:stage
events: sing | song chorus lullaby | | on:balcony in:concert_hall; tune | piano violin guitar | | in:dressing_room
events: mark | note score rhythm | pencil; rehearse | duet solo chorus | | on:stage
events: compose | waltz song lullaby | | in:practice_room; record | song duet melody | microphone | in:practice_room
events: drop! | flute microphone bow | | on:stage; break! | string bow stand; conduct | orchestra+ choir+
events: practise | solo waltz rhythm scale | | in:practice_room; carry | drum case speaker stand | | onto:stage
events: repair | trumpet microphone drum | | in:dressing_room; buy | ticket record banjo dress; win! | prize+
events: switch_off | microphone speaker radio; turn_down | radio speaker; clean | trumpet flute | cloth
nouns: scale fast; cloth clean; stool low
gifts: teach | song melody rhythm; give hand | ticket score flute record; sell | banjo guitar; show | dress violin
acts: bow @on:stage; dance @on:stage; smile @at:audience; wait @in:dressing_room; clap @on:balcony; listen @to:radio
happen: curtain rise; curtain fall; concert begin; audience clap; candle* flicker @on:piano; string snap
happen: orchestra play; rehearsal end
because: audience impatient; rehearsal short; critic* impatient; score difficult
although: concert_hall empty; dressing_room cold; stage dark; critic* unkind
""",
    "railway": """
people: driver; passenger; porter; conductor; traveller; tourist; guard
place: station
nouns: train late crowded @from:coast; ticket cheap crumpled; suitcase heavy brown; bag small wet; platform windy long
nouns: station old; timetable confusing; carriage empty dusty; seat free comfortable @by:window; window dirty
nouns: door narrow; sandwich/sandwiches dry; newspaper old; bridge narrow old @over:river; tunnel dark long
nouns: river deep; signal red; whistle shrill; map torn; coast^; bus/buses crowded; taxi; clock; engine powerful; rail
nouns: luggage% heavy; trolley squeaky; bicycle; ferry/ferries; hotel cheap noisy; museum famous
nouns: postcard colourful @of:castle; castle ruined; camera expensive; hat wide; umbrella broken; parcel mysterious
nouns: guidebook thick; bench hard; queue long; snow%^ deep; passport; coach/coaches; coin; address/addresses wrong
nouns: stranger polite; passport new; connection; waiting_room cold
events: miss! | train bus ferry connection | | at:station; buy | ticket newspaper sandwich postcard map | | at:station
events: lift | suitcase bag bicycle | | onto:train; check | ticket passport timetable | | on:platform
events: read | newspaper guidebook timetable postcard | | on:bench in:carriage
events: leave! | umbrella hat camera | | in:taxi on:train; close | door window suitcase
events: push | trolley+ | | along:platform; photograph | bridge castle train museum | camera
events: cross | bridge river platform; book | hotel seat taxi; eat | sandwich | | on:bench
events: drive | train+ bus+ | | to:coast; open | window parcel bag umbrella | | in:carriage
events: pack | suitcase bag camera | | in:hotel; visit | castle museum | | on:coast
gifts: show hand | ticket passport map; send | postcard parcel; sell | ticket sandwich newspaper
gifts: lend | umbrella camera guidebook
acts: sleep @in:carriage; wait @on:platform; wave @from:window; stand @in:queue; run @along:platform; yawn @on:train
happen: train arrive; train leave @from:station; signal change; whistle blow; door* close; bus stop @near:bridge
happen: snow melt; clock strike
because: train late; bus full; station cold; queue long
although: ticket* expensive; carriage crowded; station dark; train late
""",
    "farm": """
people: farmer; shepherd; milkmaid:f; vet; stable_boy:m; farmhand
place: farm
nouns: cow brown calm; sheep/sheep muddy; goat stubborn white; horse young nervous; hen speckled
nouns: goose/geese angry white; pig fat muddy; calf/calves newborn weak; lamb tiny newborn
nouns: dog old loyal @from:village; cat lazy striped; mouse/mice grey tiny; barn red old @by:river; field wide wet
nouns: fence broken; gate heavy; hay% dry; straw% clean; wool% soft white; egg brown fresh; tractor old muddy; plough
nouns: bucket full; stool low; stable warm; saddle worn; hill steep green; meadow wide; well deep; wolf/wolves hungry
nouns: fox/foxes clever red; market busy; sack heavy; corn% ripe; wheat% golden; brush stiff; blanket warm
nouns: village quiet; river; cart; fork long; shears& sharp; rope long; bandage clean; bottle warm; roof; farm large
nouns: milk% fresh; henhouse; cage small; paw; whistle; lantern
events: milk | cow goat | | in:barn in:stable; shear | sheep | shears | in:barn
events: feed | hen pig calf lamb goose | | in:barn; brush | horse dog goat | brush | in:stable
events: chase | goose fox goat hen | | across:meadow; gather | egg | | in:henhouse
events: lead | horse cow calf | rope | to:market to:stable; plough | field | tractor; repair | fence gate tractor roof
events: sell | pig wool calf corn | | at:market; load | sack hay | fork | onto:cart; bandage | dog lamb | | in:stable
events: lose! | sheep goat lamb | | on:hill; find! | lamb mouse cat | lantern | in:barn; cut | hay corn wheat
events: saddle | horse | | in:stable; close | gate barn+; count | sheep hen goose | | in:meadow
gifts: sell | horse cow goat tractor; give | basket>egg* lamb blanket; show | calf stable tractor
gifts: bring hand | bucket>milk bottle>milk rope
nouns: basket wide
acts: sleep @in:barn; climb @over:gate; rest @by:river; whistle @in:meadow; walk @to:market; shout @across:field
happen: dog bark @at:fox; cow* graze @in:meadow; sheep* wander @across:hill; rain stop; sun rise
happen: hen* cluck @in:henhouse; fox escape; horse gallop @across:field; goose* hiss @at:stranger
because: calf weak; fence broken; field wet; hay dry
although: barn dark; goat* stubborn; hill steep; stable cold
""",
    "hospital": """
people: doctor; nurse; surgeon; patient; pharmacist; dentist; visitor
place: hospital
nouns: tooth/teeth loose; wound deep small; bandage clean tight; pill bitter white; medicine% bitter
nouns: bottle small brown; thermometer; pulse weak; arm broken; leg; bed narrow comfortable; ward quiet crowded
nouns: form long; chart; result strange good @of:test; test simple; mask blue clean; glove thin; tray metal; syringe
nouns: wheelchair light; corridor long bright; lift slow; flower fresh; visitor_hour; blanket warm thin; pillow soft
nouns: window; ambulance fast; lamp bright; microscope powerful; cream% cool; scar; hand; hospital modern large
nouns: label wrong; book thick; clinic small; machine quiet; cast heavy; crutch/crutches; soap%
nouns: sample small @of:blood; blood%; pharmacy/pharmacies; lunch% late; fever^ high; light harsh; door; night
events: clean | wound mask tray | soap | in:clinic; change | bandage blanket pillow | | in:ward
events: swallow | pill medicine; examine | tooth wound arm sample | lamp | in:clinic; measure | pulse | | in:clinic
events: push | wheelchair bed | | along:corridor; fill_in | form chart | pen; read | chart result label | | in:ward
events: drop! | tray thermometer bottle | | in:corridor; wear | mask glove | | in:ward; misread! | label chart
events: switch_off | machine lamp light; call | ambulance | | from:clinic; sterilise | syringe tray
events: collect | sample pill form | | at:pharmacy; compare | result* sample* | | in:hospital
nouns: pen cheap
gifts: give hand | pill pillow form crutch; show | result scar chart; bring | blanket flower medicine
gifts: offer | bed wheelchair
acts: rest @in:ward; wait @in:corridor; faint @in:clinic; smile @in:lift; hurry @along:corridor; sleep @in:ward
happen: fever drop; ambulance arrive; machine beep @in:ward; lift stop; light* flicker @in:corridor; test end
happen: visitor* leave
because: result* strange; wound deep; ward crowded; fever high
although: lift slow; light harsh; corridor dark; label wrong
""",
}
