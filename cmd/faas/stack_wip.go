package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type stackArgs struct{}

func (*stackArgs) add(*pflag.FlagSet) {}
func (*stackArgs) load() (any, error) { return nil, errors.New("wip") }

type wipStack struct {
	Provider struct{ Gateway string }
}
type wipFn struct{ Name, Namespace string }

func (wipStack) list() []wipFn { return nil }

func loadStack(string, string, string) (wipStack, error)   { return wipStack{}, errors.New("wip") }
func stackFlags(*cobra.Command, *string, *string, *string) {}
func (o *options) deployStack(context.Context, *cobra.Command, any, *deployFlags) error {
	return errors.New("wip")
}
func wip(s string) *cobra.Command {
	return &cobra.Command{Use: s, Run: func(*cobra.Command, []string) {}}
}
func (o *options) newCmd() *cobra.Command      { return wip("new") }
func (o *options) templateCmd() *cobra.Command { return wip("template") }
func (o *options) buildCmd() *cobra.Command    { return wip("build") }
func (o *options) pushCmd() *cobra.Command     { return wip("push") }
func (o *options) upCmd() *cobra.Command       { return wip("up") }
func (o *options) publishCmd() *cobra.Command  { return wip("publish") }
