"""The playground: a web page for people, behind `rhapsode ui`. It needs the extra [ui].

serve      binds an address and runs the page's server
page       one browser tab: prompt, parameters, one or two panels
panel      one answer: which version, its text as it is produced, what it took
form       what a person sets, as GenerateOptions
tokens     tokens as HTML, coloured by surprise, with their candidates
snippets   the same call for the shell, Python and grpcurl
messages   errors and figures in words
"""
