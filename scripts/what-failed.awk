# Finds what failed in the log of a stage of scripts/test: libtest, libtest-mimic, cargo-nextest, rustc, our own checks.
#   awk -v show=names -f scripts/what-failed.awk LOG    the failed tests' names, and the first words of each
#   awk -v show=words -v lines=150 -f ... LOG           what each of them said, so many lines in all at most
# A backtrace is left out, and so is the middle of what is too long: the first one to fail has the most room, because
# those after it may only suffer from it.

BEGIN {
    # What libtest says of the one test that nextest has it run.
    noise = "^    (running 1 test$|test .* \\.\\.\\. FAILED$|failures:$|    [^ ]+$|test result: )|^ +std(out|err) "
}

function add_name(name) {
    if (!(name in known)) { known[name] = 1; names[++name_count] = name }
}

function open_block(title) {
    block = ++block_count
    block_of[title] = block
    titles[block] = title
    length_of[block] = 0
}

function add_line(line) {
    if (line ~ /^ *stack backtrace:$/) backtrace = 1
    else if (backtrace && line ~ /^ *note: /) { backtrace = 0; return }
    if (backtrace) return
    if (line !~ /[^ \t]/ || (kind == "nextest" && line ~ noise)) return
    said[block, ++length_of[block]] = length(line) > 600 ? substr(line, 1, 600) " ..." : line
}

function close_block() {
    block = 0
    backtrace = 0
}

# The test program that runs just now, as cargo says it: its file's name without the hash.
/^ +Running / {
    close_block()
    kind = ""
    where = $NF
    gsub(/^.*\/|-[0-9a-f]+\)$/, "", where)
    next
}
/^ +Doc-tests / { close_block(); kind = ""; where = $2; next }

# libtest and libtest-mimic: what each failed test said, then their names.
/^---- .* ----$/ {
    close_block()
    title = $0
    sub(/^---- /, "", title)
    sub(/( stdout)? ----$/, "", title)
    open_block(where ": " title)
    kind = "libtest"
    next
}
/^failures:$/ { close_block(); kind = "list"; next }
/^test result: / { close_block(); kind = ""; next }
kind == "list" && /^    [^ ]/ { add_name(where ": " substr($0, 5)); next }

# cargo-nextest: one line for each test, what a failed one said below it; all once more after the summary.
/^ +Summary \[/ || /^(─|━)+$/ { if (kind == "nextest") { close_block(); kind = "" } }
/^ +Summary \[/ { summary = 1 }
/^ +[A-Z][A-Z0-9-]* \[[ >]*[0-9.]+s\] / {
    if (kind == "nextest") { close_block(); kind = "" }
    if ($1 !~ /^(FAIL|ABORT|TIMEOUT|LEAK-FAIL|SIG[A-Z0-9]+)$/) next
    title = $0
    sub(/^[^]]*\] +(\([ 0-9\/]+\) +)?/, "", title)
    add_name(title)
    if (!summary) { open_block(title); kind = "nextest" }
    next
}

# A test program that ended otherwise than by a failed test.
/process didn't exit successfully: / && kind != "libtest" && kind != "nextest" {
    ended = $0
    sub(/.*`/, "", ended)
    add_name(where ": the test program ended" ended)
    next
}

# Our own checks, and the compiler's or cargo's complaints up to the next blank line.
/^check failed: / { close_block(); add_name(substr($0, 15)); open_block(substr($0, 15)); close_block(); kind = ""; next }
/^error(\[[A-Z0-9]+\])?: / && kind != "libtest" && kind != "nextest" {
    if ($0 ~ /(test|doctest) (run )?failed|targets? failed:|could not compile/) next
    close_block()
    add_name($0)
    open_block($0)
    kind = "error"
    next
}
kind == "error" && /^[ \t]*$/ { close_block(); kind = "" }
block { add_line($0) }

END {
    close_block()
    if (show == "names") {
        for (n = 1; n <= name_count && n <= 60; n++) {
            print names[n]
            # Three lines: a panic says where, and then what.
            b = block_of[names[n]]
            for (k = 1; b && k <= length_of[b] && k <= 3; k++) print "    " substr(said[b, k], 1, 300)
        }
        if (name_count > 60) print "and " name_count - 60 " more"
        exit
    }
    left = lines ? lines : 150
    for (b = 1; b <= block_count; b++) {
        share = int(left / (block_count - b + 1))
        if (b == 1 && share < int(left * 0.6)) share = int(left * 0.6)
        if (share < 2) { print "and " block_count - b + 1 " more that failed"; exit }
        print "-- " titles[b]
        room = share - 2
        if (length_of[b] <= room + 1) { head = length_of[b]; tail = 0 } else { head = int(room * 2 / 3); tail = room - head }
        for (n = 1; n <= head; n++) print said[b, n]
        if (head < length_of[b]) {
            print "   [" length_of[b] - head - tail " lines left out]"
            for (n = length_of[b] - tail + 1; n <= length_of[b]; n++) print said[b, n]
        }
        left -= 1 + head + tail + (head < length_of[b])
    }
}
