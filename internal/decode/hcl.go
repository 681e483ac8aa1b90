// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/scanner"
	"github.com/hashicorp/hcl/hcl/token"

	"github.com/weftmesh/weft/internal/guard"
)

// parseHCL reads HCL 1, the dialect of Consul's configuration files: quoted keys and several arguments on one line are
// fine, and ${…} is plain text.
func parseHCL(data []byte) (*Node, error) {
	if line := tooDeep(data); line > 0 && !guard.Off("C74") {
		return nil, &Error{Line: line, Text: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	f, err := parser.Parse(data)
	if err != nil {
		var pos *parser.PosError
		if errors.As(err, &pos) {
			return nil, &Error{Line: pos.Pos.Line, Text: "not HCL: " + pos.Err.Error()}
		}
		return nil, &Error{Text: "not HCL: " + err.Error()}
	}
	list, ok := f.Node.(*ast.ObjectList)
	if !ok {
		return nil, &Error{Text: "not HCL: the document must be a list of keys"}
	}
	return hclObject(list, 1, 0)
}

// tooDeep gives the line on which lists and objects nest deeper than they may, 0 if they don't. It is asked first: the parser's time
// grows with more than the square of the depth.
func tooDeep(data []byte) (line int) {
	s := scanner.New(data)
	s.Error = func(token.Pos, string) {} // the parser's to say
	depth := 0
	for {
		switch t := s.Scan(); t.Type {
		case token.EOF, token.ILLEGAL:
			return 0
		case token.LBRACE, token.LBRACK:
			if depth++; depth > 2*MaxDepth { // a block is an object in a list
				return t.Pos.Line
			}
		case token.RBRACE, token.RBRACK:
			depth--
		}
	}
}

func hclObject(list *ast.ObjectList, line, depth int) (*Node, error) {
	n := &Node{Kind: Object, Line: line}
	for _, item := range list.Items {
		v, err := hclValue(item.Val, depth+1)
		if err != nil {
			return nil, err
		}
		// A block's labels are objects around it: service "web" {…} is service = {web = {…}}.
		for i := len(item.Keys) - 1; i > 0; i-- {
			name, err := keyText(item.Keys[i])
			if err != nil {
				return nil, err
			}
			outer := &Node{Kind: Object, Line: v.Line}
			if err := outer.add(&Field{Name: name, Line: item.Keys[i].Token.Pos.Line, Value: v}); err != nil {
				return nil, err
			}
			v = outer
		}
		key := item.Keys[0]
		name, err := keyText(key)
		if err != nil {
			return nil, err
		}
		if err := n.addBlock(name, key.Token.Pos.Line, v, !item.Assign.IsValid()); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// addBlock adds a field; blocks of one name gather into a list, arguments of one name are an error.
func (n *Node) addBlock(name string, line int, v *Node, block bool) error {
	if !block {
		return n.add(&Field{Name: name, Line: line, Value: v})
	}
	for _, f := range n.Fields {
		if f.Name == name && f.Value.many {
			f.Value.Items = append(f.Value.Items, v)
			return nil
		}
	}
	return n.add(&Field{Name: name, Line: line, Value: &Node{Kind: List, Line: line, Items: []*Node{v}, many: true}})
}

func keyText(k *ast.ObjectKey) (string, error) {
	if k.Token.Type == token.STRING {
		return hclText(k.Token, k.Pos().Line)
	}
	return k.Token.Text, nil
}

// hclText is what a string or here-document stands for. The library lets escapes through which it panics at here, as "\6355", so that is caught.
func hclText(t token.Token, line int) (text string, err error) {
	defer func() {
		if recover() != nil {
			err = &Error{Line: line, Text: "not HCL: a string with an escape that is none, or a here-document without an end: " + t.Text}
		}
	}()
	text, ok := t.Value().(string)
	if !ok {
		return "", &Error{Line: line, Text: "not HCL: " + t.Text}
	}
	return text, nil
}

func hclValue(v ast.Node, depth int) (*Node, error) {
	line := v.Pos().Line
	if depth > MaxDepth {
		return nil, &Error{Line: line, Text: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	switch t := v.(type) {
	case *ast.ObjectType:
		return hclObject(t.List, line, depth)
	case *ast.ListType:
		n := &Node{Kind: List, Line: line}
		for _, item := range t.List {
			v, err := hclValue(item, depth+1)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, v)
		}
		return n, nil
	case *ast.LiteralType:
		return hclLiteral(t, line)
	}
	return nil, &Error{Line: line, Text: fmt.Sprintf("not HCL: a value of an unknown form (%T)", v)}
}

func hclLiteral(t *ast.LiteralType, line int) (*Node, error) {
	switch t.Token.Type {
	case token.BOOL:
		return &Node{Kind: Bool, Line: line, Bool: t.Token.Text == "true"}, nil
	case token.NUMBER:
		v, err := strconv.ParseInt(t.Token.Text, 0, 64)
		if err != nil {
			return nil, &Error{Line: line, Text: "the number " + t.Token.Text + " is out of range"}
		}
		return &Node{Kind: Number, Line: line, Text: strconv.FormatInt(v, 10)}, nil
	case token.FLOAT:
		return &Node{Kind: Number, Line: line, Text: t.Token.Text}, nil
	case token.STRING, token.HEREDOC:
		s, err := hclText(t.Token, line)
		if err != nil {
			return nil, err
		}
		return &Node{Kind: String, Line: line, Text: s}, nil
	}
	return nil, &Error{Line: line, Text: "not HCL: " + t.Token.Text}
}
