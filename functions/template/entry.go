package template

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/podsnap/podsnap/functions/stack"
)

var (
	functionsLine = regexp.MustCompile(`(?m)^functions:[ \t]*(\{\}|null|~)?[ \t]*(#.*)?$`)
	firstEntry    = regexp.MustCompile(`^(?:[ \t]*(?:#.*)?\n)*([ ]+)\S`)
)

// addEntry adds a function to a stack file's text, which keeps its comments and
// its form.
func addEntry(text string, c Config) (string, error) {
	image := c.Name + ":latest"
	if c.Prefix != "" {
		image = strings.TrimSuffix(c.Prefix, "/") + "/" + image
	}
	entry := func(indent string) string {
		step := indent
		return fmt.Sprintf("%s%s:\n%s%slang: %s\n%s%shandler: ./%s\n%s%simage: %s\n",
			indent, c.Name, indent, step, c.Lang, indent, step, c.Name, indent, step, image)
	}
	if strings.TrimSpace(text) == "" {
		gateway := c.Gateway
		if gateway == "" {
			gateway = "http://127.0.0.1:8080"
		}
		return "version: 1.0\nprovider:\n  name: openfaas\n  gateway: " + gateway + "\nfunctions:\n" + entry("  "), nil
	}
	none := func(string) (string, bool) { return "", false }
	s, err := stack.Parse(strings.NewReader(text), none)
	if err != nil {
		return "", err
	}
	if _, ok := s.Functions[c.Name]; ok {
		return "", fmt.Errorf("it has a function %s already", c.Name)
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	at := functionsLine.FindStringIndex(text)
	switch {
	case at == nil && len(s.Functions) == 0:
		text += "functions:\n" + entry("  ")
	case at == nil:
		return "", fmt.Errorf("write this entry into its functions yourself, they have an uncommon form:\n%s", entry("  "))
	default:
		indent := "  "
		rest := text[at[1]+1:]
		if m := firstEntry.FindStringSubmatch(rest); m != nil && len(s.Functions) > 0 {
			indent = m[1]
		}
		text = text[:at[0]] + "functions:\n" + entry(indent) + rest
	}
	if s, err = stack.Parse(strings.NewReader(text), none); err != nil || s.Functions[c.Name].Handler == "" {
		return "", fmt.Errorf("write this entry into its functions yourself:\n%s", entry("  "))
	}
	return text, nil
}
