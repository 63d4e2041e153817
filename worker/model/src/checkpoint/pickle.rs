//! A pickle reader that knows tensors and plain containers, and refuses everything else.
//!
//! A pickle is a program. This machine runs only the instructions that `torch.save` emits for
//! dictionaries of tensors, and "imports" nothing: the few names it accepts become plain data. Values
//! live in one flat arena and refer to each other by index, so that neither deep nesting nor
//! self-reference nor a memo used a million times can exhaust stack or memory.

use std::collections::HashMap;

use candle_core::DType;

/// Largest pickle accepted. The index of a full-size training checkpoint is below 1 MB.
pub(super) const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// Largest number of values in one pickle; bounds memory at about 200 MB whatever the bytes say.
const MAX_VALUES: usize = 4 << 20;

/// Why a pickle was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// It names something that is neither a tensor nor a plain container.
    #[error("the pickle asks for `{0}`; only plain dictionaries of tensors are read")]
    ForbiddenGlobal(String),
    /// An instruction that no tensor pickle contains.
    #[error("pickle instruction 0x{0:02x} does not occur in tensor files")]
    UnknownInstruction(u8),
    /// The bytes end too early or contradict themselves.
    #[error("the pickle is malformed: {0}")]
    Malformed(&'static str),
}

/// Index of a value in its [`Pickle`].
pub(super) type ValueId = u32;

/// One unpickled value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    Global(Global),
    Storage(Storage),
    Tensor(PickledTensor),
}

/// The names a tensor pickle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Option<DType>),
}

/// A block of numbers beside the pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// `None`: a type that holds no weights (booleans, short integers)
    pub(super) dtype: Option<DType>,
    pub(super) elements: u64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PickledTensor {
    pub(super) storage: Storage,
    /// in elements
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// The values of one pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: ValueId,
}

impl Pickle {
    pub(super) fn root(&self) -> &Value {
        self.value(self.root)
    }

    pub(super) fn value(&self, id: ValueId) -> &Value {
        // ids are handed out by `Machine::push_new` only
        &self.values[id as usize]
    }

    /// The value under a text key of a dictionary.
    pub(super) fn get(&self, dict: &Value, key: &str) -> Option<&Value> {
        let Value::Dict(items) = dict else { return None };
        // as in Python, the last of equal keys counts
        let (_, value) =
            items.iter().rev().find(|(k, _)| matches!(self.value(*k), Value::Text(text) if text == key))?;
        Some(self.value(*value))
    }
}

/// Run the pickle program in `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut machine = Machine { input: bytes, ..Machine::default() };
    while !machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle { values: machine.values, root })
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    values: Vec<Value>,
    stack: Vec<ValueId>,
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl Machine<'_> {
    /// Execute one instruction; true after STOP.
    fn step(&mut self) -> Result<bool, PickleError> {
        match self.byte()? {
            // PROTO, FRAME: nothing to do for a reader of whole files
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push_new(Value::None)?,
            0x88 => self.push_new(Value::Bool(true))?,
            0x89 => self.push_new(Value::Bool(false))?,
            b'K' => {
                let value = i64::from(self.byte()?);
                self.push_new(Value::Int(value))?;
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.array()?));
                self.push_new(Value::Int(value))?;
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push_new(Value::Int(value))?;
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push_new(Value::Float(value))?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?;
            }
            0x8c => {
                let length = usize::from(self.byte()?);
                self.text(length)?;
            }
            b')' => self.push_new(Value::Tuple(Vec::new()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_new(Value::Tuple(items))?;
            }
            b']' => self.push_new(Value::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.list()?.extend(items);
            }
            b'}' => self.push_new(Value::Dict(Vec::new()))?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.dict()?.push((key, value));
            }
            b'u' => self.set_items()?,
            b'q' => {
                let slot = u32::from(self.byte()?);
                self.memoize(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.memoize(slot)?;
            }
            0x94 => {
                let slot = self.memo.len() as u32;
                self.memoize(slot)?;
            }
            b'h' => {
                let slot = u32::from(self.byte()?);
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(&module, &name)?;
            }
            b'i' => {
                let module = self.line()?;
                let name = self.line()?;
                return Err(PickleError::ForbiddenGlobal(format!("{module}.{name}")));
            }
            0x93 => self.stack_global()?,
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => return Err(PickleError::UnknownInstruction(other)),
        }
        Ok(false)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], PickleError> {
        let (head, tail) =
            self.input.split_at_checked(length).ok_or(PickleError::Malformed("it ends too early"))?;
        self.input = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (head, tail) =
            self.input.split_first_chunk().ok_or(PickleError::Malformed("it ends too early"))?;
        self.input = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let end = self
            .input
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(PickleError::Malformed("it ends too early"))?;
        let line = String::from_utf8_lossy(self.take(end)?).trim_end_matches('\r').to_owned();
        self.byte()?;
        Ok(line)
    }

    fn text(&mut self, length: usize) -> Result<(), PickleError> {
        let text = std::str::from_utf8(self.take(length)?)
            .map_err(|_| PickleError::Malformed("a text that is not UTF-8"))?
            .to_owned();
        self.push_new(Value::Text(text))
    }

    fn long(&mut self) -> Result<(), PickleError> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(PickleError::Malformed("an integer beyond 64 bits"));
        }
        // two's complement, little endian: the sign of the last byte fills the rest
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..length].copy_from_slice(bytes);
        self.push_new(Value::Int(i64::from_le_bytes(wide)))
    }

    fn push_new(&mut self, value: Value) -> Result<(), PickleError> {
        if self.values.len() >= MAX_VALUES {
            return Err(PickleError::Malformed("too many values"));
        }
        self.stack.push(self.values.len() as ValueId);
        self.values.push(value);
        Ok(())
    }

    /// Stack entries below the last mark are out of reach, as in Python's own machine.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<ValueId, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(PickleError::Malformed("the stack is empty"));
        }
        self.stack.pop().ok_or(PickleError::Malformed("the stack is empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<ValueId>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Malformed("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<ValueId, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(PickleError::Malformed("the stack is empty"));
        }
        self.stack.last().copied().ok_or(PickleError::Malformed("the stack is empty"))
    }

    fn list(&mut self) -> Result<&mut Vec<ValueId>, PickleError> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::List(items) => Ok(items),
            _ => Err(PickleError::Malformed("an append to something that is not a list")),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(ValueId, ValueId)>, PickleError> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::Dict(items) => Ok(items),
            _ => Err(PickleError::Malformed("an item set on something that is not a dictionary")),
        }
    }

    fn set_items(&mut self) -> Result<(), PickleError> {
        let items = self.pop_to_mark()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(PickleError::Malformed("a dictionary key without a value"));
        }
        self.dict()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn tuple(&mut self, length: usize) -> Result<(), PickleError> {
        if self.stack.len() < self.floor() + length {
            return Err(PickleError::Malformed("the stack is empty"));
        }
        let items = self.stack.split_off(self.stack.len() - length);
        self.push_new(Value::Tuple(items))
    }

    fn memoize(&mut self, slot: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&slot).ok_or(PickleError::Malformed("an unknown memo slot"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "FloatStorage") => Global::Storage(Some(DType::F32)),
            ("torch", "HalfStorage") => Global::Storage(Some(DType::F16)),
            ("torch", "BFloat16Storage") => Global::Storage(Some(DType::BF16)),
            ("torch", "DoubleStorage") => Global::Storage(Some(DType::F64)),
            ("torch", "LongStorage") => Global::Storage(Some(DType::I64)),
            ("torch", "IntStorage" | "ShortStorage" | "CharStorage" | "ByteStorage" | "BoolStorage") => {
                Global::Storage(None)
            }
            _ => return Err(PickleError::ForbiddenGlobal(format!("{module}.{name}"))),
        };
        self.push_new(Value::Global(global))
    }

    fn stack_global(&mut self) -> Result<(), PickleError> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (&self.values[module as usize], &self.values[name as usize]) {
            (Value::Text(module), Value::Text(name)) => {
                let (module, name) = (module.clone(), name.clone());
                self.global(&module, &name)
            }
            _ => Err(PickleError::Malformed("a global that is not named by texts")),
        }
    }

    /// `("storage", type, key, location, element count)` becomes a [`Storage`].
    fn persistent_id(&mut self) -> Result<(), PickleError> {
        let bad = PickleError::Malformed("a reference that is not to a storage");
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.values[id as usize] else { return Err(bad) };
        let [kind, class, key, _location, count] = parts[..] else { return Err(bad) };
        let value = |id: ValueId| &self.values[id as usize];
        let storage = match (value(kind), value(class), value(key), value(count)) {
            (
                Value::Text(kind),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Int(count),
            ) if kind == "storage" => {
                let elements = u64::try_from(*count)
                    .map_err(|_| PickleError::Malformed("a storage of negative size"))?;
                Storage { key: key.clone(), dtype: *dtype, elements }
            }
            _ => return Err(bad),
        };
        self.push_new(Value::Storage(storage))
    }

    fn reduce(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Value::Tuple(arguments) = &self.values[arguments as usize] else {
            return Err(PickleError::Malformed("a call without an argument tuple"));
        };
        match &self.values[callable as usize] {
            Value::Global(Global::OrderedDict) if arguments.is_empty() => {
                self.push_new(Value::Dict(Vec::new()))
            }
            Value::Global(Global::RebuildTensor) => {
                let tensor = self.rebuild_tensor(arguments)?;
                self.push_new(Value::Tensor(tensor))
            }
            Value::Global(Global::RebuildParameter) => match arguments.first().copied() {
                Some(data) if matches!(self.values[data as usize], Value::Tensor(_)) => {
                    self.stack.push(data);
                    Ok(())
                }
                _ => Err(PickleError::Malformed("a parameter without a tensor")),
            },
            _ => Err(PickleError::Malformed("a call of something that builds no tensor")),
        }
    }

    /// Arguments: storage, offset, shape, stride, requires_grad, hooks.
    fn rebuild_tensor(&self, arguments: &[ValueId]) -> Result<PickledTensor, PickleError> {
        let bad = PickleError::Malformed("a tensor with unexpected arguments");
        let [storage, offset, shape, stride, ..] = arguments else { return Err(bad) };
        match (&self.values[*storage as usize], &self.values[*offset as usize]) {
            (Value::Storage(storage), Value::Int(offset)) => Ok(PickledTensor {
                storage: storage.clone(),
                offset: u64::try_from(*offset).map_err(|_| bad)?,
                shape: self.sizes(*shape)?,
                stride: self.sizes(*stride)?,
            }),
            _ => Err(bad),
        }
    }

    fn sizes(&self, id: ValueId) -> Result<Vec<usize>, PickleError> {
        let bad = || PickleError::Malformed("a tensor whose shape is not a tuple of sizes");
        let Value::Tuple(items) = &self.values[id as usize] else { return Err(bad()) };
        // 8 is far above any rank here and keeps a recycled giant tuple from being copied per tensor
        if items.len() > 8 {
            return Err(bad());
        }
        let size = |id: &ValueId| match self.values[*id as usize] {
            Value::Int(value) => usize::try_from(value).map_err(|_| bad()),
            _ => Err(bad()),
        };
        items.iter().map(size).collect()
    }

    /// An `OrderedDict` may carry attributes (torch's `_metadata`); they hold no tensors we want.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        let object = self.top()?;
        match &self.values[object as usize] {
            Value::Dict(_) => Ok(()),
            _ => Err(PickleError::Malformed("state for something that is not a dictionary")),
        }
    }
}

#[cfg(test)]
mod tests;
