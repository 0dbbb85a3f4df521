package openapi

import (
	_ "embed"
	"encoding/json"
	"strings"
	"sync"
)

// fact is what a comment says of a field or a type.
type fact struct {
	atomic   bool            // has one owner as a whole
	granular bool            // has not, though its type is atomic
	set      bool            // a list of values of which each is there once
	keys     []string        // a list of which each element has these, and no other the same
	fallback json.RawMessage // what the field is when it is left away
	optional bool            // though its JSON tag does not say so
	enum     []string        // of a type: its values
}

// factText has a line for each: the type, with a field after a dot, then what is
// said of it. It is made from the sources by the package's test.
//
//go:embed facts.txt
var factText string

// facts are all of them, by type and field.
var facts = sync.OnceValue(func() map[string]fact {
	out := map[string]fact{}
	for line := range strings.Lines(factText) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var f fact
		for word := range strings.SplitSeq(rest, " ") {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "atomic":
				f.atomic = true
			case "granular":
				f.granular = true
			case "set":
				f.set = true
			case "optional":
				f.optional = true
			case "keys":
				f.keys = strings.Split(value, ",")
			case "enum":
				f.enum = strings.Split(value, ",")
			case "default":
				f.fallback = json.RawMessage(value)
			}
		}
		out[name] = f
	}
	return out
})
