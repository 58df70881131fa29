"""What words, operators and constructs of Python code may be called in English."""

from __future__ import annotations

import re

from reward_models._text import stem


def _table(text: str) -> dict[str, list[str]]:
    """Read lines of `word: meaning meaning ...`."""
    pairs = (line.split(":", 1) for line in text.strip().splitlines())
    return {word.strip(): meanings.split() for word, meanings in pairs}


# What a word of code may be called in English: keywords, operators, builtins and customary abbreviations.
ENGLISH = _table(
    """
    yield: iterate generate generator iterator produce each every one
    yields: iterate
    raise: error exception fail check ensure validate verify invalid reject
    except: error exception catch handle ignore fail suppress failure
    try: attempt
    finally: always clean cleanup
    for: iterate loop each every over all walk
    while: loop repeat until wait
    if: whether check optional
    else: otherwise
    not: opposite unless negate without invert true false whether test
    none: missing unset default empty optional
    true: whether check test boolean enable allow success
    false: whether check test boolean disable
    and: both
    or: either
    in: contain member belong whether inside true false test
    is: whether check test same true false
    has: whether check test contain true false
    can: whether possible able true false test
    del: delete remove clear
    delete: remove
    remove: delete drop
    unlink: delete remove
    pop: remove last take
    clear: remove empty reset delete
    discard: remove
    append: add end insert
    add: insert include append register
    extend: add append
    insert: add
    update: change merge add refresh
    setdefault: default
    len: length number count size many empty
    isinstance: type instance check whether kind true false test
    issubclass: subclass class check whether true false test
    type: class kind
    hasattr: attribute true false whether test
    getattr: attribute get
    setattr: attribute set
    delattr: attribute delete remove
    callable: function call true false whether test
    async: asynchronous coroutine
    await: wait asynchronous coroutine until
    lambda: function
    with: context
    assert: check ensure verify
    print: display show output message
    write: output save store print send emit text
    read: load input fetch
    open: file
    close: shut end finish release
    join: combine concatenate string wait
    split: separate divide part piece
    strip: remove whitespace trim
    lstrip: remove leading whitespace
    rstrip: remove trailing whitespace
    replace: substitute change copy new
    startswith: start begin prefix true false whether test
    endswith: end suffix true false whether test
    lower: lowercase case
    upper: uppercase case
    encode: bytes
    decode: text
    sorted: sort order
    sort: order
    reversed: reverse order backward
    reverse: order
    sum: total add
    min: minimum smallest least minimal
    max: maximum largest greatest maximal
    abs: absolute
    round: nearest integer rounded
    range: number
    enumerate: index number list
    zip: pair
    map: apply mapping
    filter: select record
    any: some whether
    all: every whether
    int: integer number convert
    float: number floating convert
    complex: number
    bool: boolean truth true
    str: string text convert description
    string: text
    repr: representation string printable description
    format: string formatted text convert
    bytes: byte binary
    bytearray: byte buffer
    list: sequence
    dict: dictionary mapping
    set: assign change specify configure
    tuple: pair sequence
    frozenset: immutable set
    get: return retrieve fetch obtain find lookup
    fetch: get retrieve
    find: search look locate
    search: find look
    lookup: find return
    make: create build construct
    create: make build new
    new: create construct
    init: initialize construct create set setup constructor instance instantiate store
    setup: initialize prepare configure
    build: create construct
    call: invoke execute
    exec: execute run
    run: execute start
    start: begin launch
    stop: end halt abort
    end: finish last
    begin: start
    send: transmit
    recv: receive
    show: display visible
    dump: write serialize print
    dumps: serialize string
    load: read parse deserialize
    loads: parse string deserialize
    copy: duplicate clone
    eq: equal compare true false whether test
    ne: equal different compare unequal
    lt: less smaller compare
    gt: greater larger compare
    le: less equal compare
    ge: greater equal compare
    cmp: compare
    neg: negate negative minus
    pos: positive position plus copy
    sub: subtract substitute difference replace
    mul: multiply product
    div: divide division
    truediv: divide division child
    floordiv: divide division
    mod: modulo remainder module
    divmod: divide quotient remainder
    pow: power raise exponent
    iter: iterate iterator all each
    next: following item
    prev: previous
    contains: contain whether member exist
    getitem: item key index element find match get
    setitem: item key set store assign
    delitem: item key delete remove
    enter: context acquire start begin
    exit: context close leave release stop
    missing: default absent
    path: file directory location folder
    dir: directory folder
    dirname: directory
    basename: name
    exists: exist whether true false test
    msg: message
    exc: exception
    err: error
    errno: error
    fp: file
    fd: file descriptor
    fn: function
    func: function callable
    cls: class
    obj: object
    src: source
    dst: destination
    dest: destination
    attr: attribute
    attrs: attribute
    arg: argument
    args: argument
    kw: keyword
    kwargs: keyword argument
    kwds: keyword argument
    param: parameter
    val: value
    num: number
    nr: number
    cnt: count
    idx: index
    ptr: pointer
    buf: buffer
    sock: socket
    conn: connection
    addr: address
    host: server
    cb: callback
    evt: event
    cmd: command
    proc: process
    pid: process identifier
    tz: time zone
    tzinfo: time zone
    dt: date time
    sec: second
    secs: second
    sep: separator
    ext: extension
    env: environment variable
    ctx: context
    cfg: configuration
    conf: configuration
    config: configuration configure option
    tmp: temporary
    temp: temporary
    ns: namespace
    pkg: package
    ver: version
    doc: documentation
    docs: documentation
    win: window
    w: width
    h: height
    width: size
    height: size
    x: coordinate position
    y: coordinate position
    bg: background
    fg: foreground
    db: database
    id: identifier
    ids: identifier
    uid: user identifier
    url: address
    uri: address url
    req: request
    resp: response
    auth: authentication authenticate
    passwd: password
    pw: password
    rel: relative
    cur: current
    curr: current
    loc: location
    char: character
    chars: character
    ch: character
    ws: whitespace
    stmt: statement
    expr: expression
    regex: regular expression pattern
    pat: pattern
    desc: description
    info: information
    stat: status
    mutex: lock
    acquire: lock
    release: unlock
    lock: acquire
    thread: concurrent
    log: record message
    warn: warning
    elem: element
    elt: element
    node: element child tree
    seq: sequence
    iterable: sequence
    stdin: standard input
    stdout: standard output
    stderr: standard error
    argv: command line argument
    opt: option
    opts: option
    prop: property
    property: attribute
    cwd: current directory
    tk: widget window
    configure: option resource
    utcoffset: offset
    getter: return
    handler: handle logging
    notify: wake
    sleep: wait
    wait: block until
    cancel: abort stop
    to: convert
    as: convert
    from: convert create
    loop: event
    geturl: url
    master: parent
    parent: master
    import: module load
    byte: bytes
    data: bytes
    line: text
    lineno: line number
    filename: file path name
    future: result
    fut: future
    coro: coroutine
    gen: generator
    frame: stack
    tb: traceback
    traceback: stack
    col: column
    row: line
    title: name
    root: top
    header: field
    headers: field
    key: mapping
    keys: mapping
    items: pair mapping tuple key
    values: mapping list all
    default: missing
    encoding: character
    charset: encoding character
    match: pattern regular
    stack: frame
    queue: wait
    put: add insert
    mode: permission common frequent
    st: status
    dot: period
    month: date
    year: date
    day: date
    hour: time
    minute: time
    timeout: time wait second
    delay: time wait
    seconds: time
    ascii: character
    json: document
    xml: document
    section: configuration
    parser: parse
    parse: analyze
    token: parse
    tree: document
    mailbox: message
    mail: message
    socket: connection network
    server: connection
    port: address
    ip: address
    ssl: secure
    cert: certificate
    poll: ready
    select: choose ready
    fileno: file descriptor
    seek: position
    tell: position
    offset: position
    flush: buffer
    truncate: size
    stream: file
    reader: read
    writer: write
    sign: signed
    sqrt: square root
    exp: exponential
    pi: angle
    mean: average
    ratio: fraction
    numerator: fraction
    denominator: fraction
    real: number
    imag: imaginary number
    bit: binary
    bits: binary
    hex: hexadecimal digit
    color: colour
    pen: draw line
    goto: move
    move: position
    shift: move
    bbox: bounding box
    tag: name
    event: notification
    signal: event
    hook: callback
    child: subprocess element
    fork: child process
    popen: process open
    shell: command
    prompt: ask
    ask: prompt
    help: documentation
    quit: exit
    pickle: serialize
    reduce: pickle
    state: status
    weakref: reference
    ref: reference
    slot: attribute
    dunder: special
    compile: code
    eval: expression evaluate
    locals: local variable
    globals: global variable
    co: code
    main: program script
    version: release
    platform: system
    system: operating
    os: system operating
    user: home account
    home: directory user
    expanduser: home
    walk: tree traverse
    listdir: directory list
    mkdir: directory create make
    rmdir: directory remove
    chdir: directory change
    rename: move
    symlink: link symbolic
    islink: symbolic link
    isfile: regular file
    isdir: directory
    name: identifier
    gather: collect
    combine: construct merge
    discover: find
    pack: convert
    unpack: convert
    active: alive running
    trace: debug
    debug: trace
    choice: choose random
    choose: select
    nowait: block immediately
    mro: method resolution order
    sanitize: replace remove
    reset: initial clear
    unread: back
    skip: ignore
    peek: look
    purge: clear
    mktime: time
    cache: store
    finder: find
    resource: file
    spec: specification
    index: position
    connect: open connection
    disconnect: close
    connection: connect
    alive: running
    terminate: stop kill
    kill: terminate
    clone: copy
    refresh: update
    toggle: switch
    enable: turn activate
    disable: turn deactivate
    hide: invisible
    visible: show
    focus: input
    grab: direct
    undo: last
    redo: undone
    dirty: change
    push: add append
    emit: record send output
    level: priority severity
    logger: logging
    propagate: parent
    """
)
OPERATORS = {
    "==": "equal compare same equality whether true false test",
    "!=": "different compare equal unequal whether true false test",
    "<": "less compare smaller before",
    ">": "greater compare larger after more",
    "+": "sum add plus total concatenate",
    "-": "difference subtract minus negative",
    "*": "multiply product times",
    "/": "divide quotient ratio",
    "%": "remainder modulo format",
    "**": "power exponent square",
    "[": "list item index element sequence",
    "[:": "slice prefix part first",
    "{": "dictionary mapping set",
    "+=": "increment increase add append",
    "-=": "decrement decrease subtract",
    "|": "union merge combine",
    "&": "intersection mask",
    "0": "zero first",
    "-1": "last final",
    "1": "one",
}
CONSTRUCTS = [
    (re.compile(pattern), words.split())
    for pattern, words in (
        (r"['\"]", "string text character"),
        (r"\bf['\"]|['\"] %|\.format\(", "format formatted string"),
        (r"\bb['\"]", "bytes byte"),
        (r"\b\d", "number integer"),
        (r"return [^\n({\[]+,|return \(.*,", "tuple pair two"),
        (
            r"return (self\.\w+ )?(not|is|in|and|or)\b|return .*( (in|is|not|and|or) |[<>]|bool\()",
            "true false whether test check",
        ),
        (r"\bis not None|\bis None", "set given missing none default"),
        (r"self\.\w+(\.\w+)* = ", "set store initialize change assign"),
        (r"\.\w+\(\*|\(\*\w", "delegate forward pass wrap wrapper underlying"),
        (r"return (self\.)?_\w+|self\._\w+\.", "underlying internal"),
        (r"\bfor .* in .*\bif\b", "match matching filter select find"),
        (r"\bsuper\(\)", "parent base super class inherit override"),
        (
            r"^\s*def \w+\(cls|\bcls\(|self\.__class__\(|type\(self\)\(",
            "class create construct alternate instance copy",
        ),
        (r"\bdef .*\n(.*\n)*\s+def ", "decorator wrapper inner closure"),
        (r"\[-1\]|\[1:\]|\[:", "last first end part slice prefix suffix"),
        (r"\bwarn", "deprecated warning"),
        (r"\block\b|_lock\b", "thread safe lock"),
    )
]
# Words that fit any function, so that they neither ground a sentence nor make it say anything.
GENERIC = frozenset(
    stem(word)
    for word in """
    given specified specify new current value object result function method instance data thing item parameter
    argument input output code python use using used various appropriate necessary required provided provide passed
    call called based operation perform return get set do make handle process return work corresponding associated
    certain self variable program task action way kind information purpose
    """.split()
)
# Words that much code supports: weaker evidence than the others.
COMMONPLACE = frozenset(
    stem(word)
    for word in """
    list string number true false whether test check type name text tuple pair sequence dictionary mapping index
    element key none default integer bytes character error exception create construct add remove read write message
    first last end other same single default named optional internal underlying class module file line
    """.split()
)
