"""The generator of the demo corpus; `make_demo_corpus.py` runs it.

topics       the words of each topic, as text
word_lists   the words that go across the topics
inflection   plurals and verb forms
lexicon      topics -> nouns, events, domains
trees        a sentence as a tree of words
words        single words as nodes
clauses      a verb with its auxiliaries and its subject
scene        phrases and clauses of one topic that make sense together
constructions/  one kind of sentence a function
writer       tree -> words in order -> CoNLL-U
generate     how many of which kind; seed -> corpus
"""
