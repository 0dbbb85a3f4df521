package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// What hands that know faas-cli type.
func TestHabits(t *testing.T) {
	newDouble(t, map[string]http.HandlerFunc{
		"GET /system/functions":   answer(200, two),
		"GET /system/function/hi": answer(200, `{"name":"hi","readOnlyRootFilesystem":true}`),
	})
	if r := cli(t, "", "list", "-j"); r.code != 0 || !json.Valid([]byte(r.out)) {
		t.Errorf("list -j: %+v", r)
	}
	if r := cli(t, "", "describe", "hi", "-v"); r.code != 0 || !strings.Contains(r.out, "read-only\n") {
		t.Errorf("describe -v: %+v", r)
	}
	write(t, "handler.sh", "#!/bin/sh\ncat\n")
	write(t, "stack.yaml", "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  a:\n    image: a\n    skip_build: true\n  b:\n    image: b\n    skip_build: true\n")
	cli(t, "", "build", "--parallel", "2", "--no-cache", "--tag", "latest").want(t, 0, "", "a: nothing to build", "b: nothing to build")
	cli(t, "", "build", "--name", "x", "--lang", "perl", "--handler", "absent").want(t, 1, "", "perl")
}
